"""Thoughts, calls and words are told apart, however the text is cut into pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.serving.reply_reader import Call, Piece, ReplyReader, Thinking, Thought, Words

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "<b> ń"}}\n</tool_call>'
LOOK = Call("look", '{"at": "<b> ń"}')
HALF_A_PAIR = '<tool_call>{"name": "look", "arguments": {"at": "\\ud800"}}</tool_call>'

CASES: list[tuple[Thinking, str, list[Piece]]] = [
    (Thinking.NONE, "a <think>b</think> c", [Words("a <think>b</think> c")]),
    (Thinking.FIRST, "\n<think>\nhm < 3 \n</think>\n\nyes", [Thought("hm < 3"), Words("yes")]),
    (Thinking.FIRST, "no tags <think>at all</think>", [Words("no tags <think>at all</think>")]),
    (Thinking.FIRST, "<think>never ends </thin", [Thought("never ends </thin")]),
    (Thinking.FIRST, "<thi", [Words("<thi")]),
    (Thinking.FIRST, f"<think>call</think>\n{CALL}", [Thought("call"), LOOK]),
    (Thinking.ALL, "<think>a plan</think> and more", [Thought("a plan"), Thought("and more")]),
    (Thinking.ALL, "a plan", [Thought("a plan")]),
    (Thinking.NONE, CALL, [LOOK]),
    (Thinking.NONE, f"{CALL}\n{CALL}", [LOOK, LOOK]),
    (Thinking.NONE, f"I look. \n{CALL}\n", [Words("I look."), LOOK]),
    (Thinking.NONE, f"{CALL}\nseen", [LOOK, Words("seen")]),
    (Thinking.NONE, "cut off <tool_call>\n{", [Words("cut off"), Words("<tool_call>\n{")]),
    (Thinking.NONE, "<tool_call>no json</tool_call>", [Words("<tool_call>no json</tool_call>")]),
    (Thinking.NONE, CALL.replace("look", "leap"), [Words(CALL.replace("look", "leap"))]),
    (Thinking.NONE, HALF_A_PAIR, [Words(HALF_A_PAIR)]),
    (Thinking.NONE, "1 < 2 <tool", [Words("1 < 2 <tool")]),
]


def read(texts: list[str], thinking: Thinking) -> list[Piece]:
    """Read an answer that comes in pieces."""
    reader = ReplyReader(thinking, ["look"])
    return joined([*(piece for text in texts for piece in reader.push(text)), *reader.flush()])


def joined(pieces: list[Piece]) -> list[Piece]:
    """Join neighbouring words, and neighbouring thoughts."""
    result: list[Piece] = []
    for piece in pieces:
        match result[-1] if result else None, piece:
            case Words(before), Words(text):
                result[-1] = Words(before + text)
            case Thought(before), Thought(text):
                result[-1] = Thought(before + text)
            case _:
                result.append(piece)
    return result


@pytest.mark.parametrize(("thinking", "text", "expected"), CASES, ids=[f"{case[1][:20]!r}" for case in CASES])
@given(cuts=st.lists(st.integers(0, 200), max_size=12))
def test_every_way_of_cutting_the_text_reads_the_same(thinking: Thinking, text: str, expected: list[Piece], cuts: list[int]) -> None:
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    assert read([text[start:end] for start, end in itertools.pairwise(edges)], thinking) == joined(expected)


def test_words_are_shown_as_soon_as_they_cannot_be_a_tag() -> None:
    reader = ReplyReader(Thinking.NONE, ["look"])
    assert reader.push("hello <") == [Words("hello")]
    assert reader.push("3") == [Words(" <3")]


def test_a_call_nested_too_deeply_is_words() -> None:
    """It ended the answer with an error of the server's."""
    text = '<tool_call>{"name": "look", "arguments": {"at": ' + "[" * 100_000 + "]" * 100_000 + "}}</tool_call>"
    assert read([text], Thinking.NONE) == [Words(text)]
