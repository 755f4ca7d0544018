"""One answer as it grows: pieces in order, no half character, nothing after a stop string."""

from __future__ import annotations

import pytest

from server.errors import EngineUnavailable, GenerationFailed
from server.messages import FinishedOutput, FinishReason, ImageOutput, ProgressOutput, TextClosed, TokenLogprob, TokenOutput, Usage
from server.serving.answer import Answer, AnswerStyle
from server.serving.asks import PictureFormat
from server.serving.events import Event, FinishedEvent, PictureEvent, ProgressEvent, TextEvent, ThoughtEvent
from server.serving.output_stream import Output
from server.serving.reply_reader import Thinking
from tests.server.running_front import golden_model
from tests.server.scripted_engine import red_picture

TOKENIZER = golden_model().tokenizer
FINISHED = FinishedOutput("r", FinishReason.STOP, Usage())
CLOSED = TextClosed("r")


def words(text: str) -> list[Output]:
    return [TokenOutput("r", token_id) for token_id in TOKENIZER.encode(text)]


def picture(index: int) -> Output:
    return ImageOutput("r", index, red_picture())


async def events_of(outputs: list[Output], *, stops: tuple[str, ...] = (), thinking: Thinking = Thinking.NONE) -> list[Event]:
    answer = Answer(0, TOKENIZER, AnswerStyle("r", stops, PictureFormat.PNG, thinking, 1))
    return [event for output in outputs for event in await answer.events(output)]


def spelled(events: list[Event]) -> list[str]:
    """Join what belongs to one piece: ``number:text`` or ``number:picture index``."""
    pieces: dict[int, str] = {}
    for event in events:
        if isinstance(event, TextEvent):
            pieces[event.part] = pieces.get(event.part, "") + event.text
        elif isinstance(event, PictureEvent):
            pieces[event.part] = f"picture {event.index}"
    return [f"{part}:{piece}" for part, piece in pieces.items()]


async def test_text_and_pictures_are_numbered_in_the_order_they_came() -> None:
    outputs = [*words("one"), CLOSED, picture(0), picture(1), *words("two"), CLOSED, FINISHED]
    events = await events_of(outputs)
    assert spelled(events) == ["0:one", "1:picture 0", "2:picture 1", "3:two"]
    assert isinstance(events[-1], FinishedEvent)


async def test_an_empty_text_is_no_piece() -> None:
    assert spelled(await events_of([CLOSED, picture(0), CLOSED, FINISHED])) == ["0:picture 0"]


async def test_a_character_of_several_tokens_is_shown_whole() -> None:
    outputs = words("aé🙂b")
    assert len(outputs) > 4, "the tokenizer must split this for the test to mean anything"
    events = await events_of([*outputs, CLOSED])
    assert [event.text for event in events if isinstance(event, TextEvent)] == ["a", "é", "🙂", "b"]


async def test_half_a_character_at_the_end_of_a_text_does_not_reach_into_the_next() -> None:
    half = words("é")[:1]
    assert spelled(await events_of([*half, CLOSED, picture(0), *words("b"), CLOSED])) == ["0:\ufffd", "1:picture 0", "2:b"]


async def test_a_stop_string_over_several_tokens_ends_the_answer_before_it() -> None:
    answer = Answer(0, TOKENIZER, AnswerStyle("r", ["END"], PictureFormat.PNG, Thinking.NONE, 0))
    events: list[Event] = []
    for output in [*words("the ENEND more"), CLOSED, FinishedOutput("r", FinishReason.ABORT, Usage())]:
        events += await answer.events(output)
    assert spelled(events) == ["0:the EN"] and answer.is_stopped
    assert events[-1] == FinishedEvent(0, FinishReason.STOP, Usage())


async def test_a_stop_string_does_not_reach_over_a_picture() -> None:
    assert spelled(await events_of([*words("EN"), CLOSED, picture(0), *words("D"), CLOSED], stops=("END",)))[-1] == "2:D"


async def test_a_plan_before_a_picture_is_no_part_of_the_answer() -> None:
    events = await events_of([*words("plan"), CLOSED, picture(0), FINISHED], thinking=Thinking.ALL)
    assert "".join(event.text for event in events if isinstance(event, ThoughtEvent)) == "plan"
    assert spelled(events) == ["0:picture 0"]


async def test_progress_is_passed_on() -> None:
    assert await events_of([ProgressOutput("r", 1, 2, 3)]) == [ProgressEvent(0, 1, 2, 3)]


async def test_each_token_is_scored_with_the_text_it_completed() -> None:
    first, second = TOKENIZER.encode("é")
    scored = [TokenOutput("r", token_id, TokenLogprob(token_id, -0.5, [(token_id, -0.5), (first, -2.0)])) for token_id in (first, second)]
    (event,) = await events_of(list(scored))
    assert isinstance(event, TextEvent) and event.text == "é"
    assert b"".join(entry.token.utf8 for entry in event.scored) == "é".encode()
    assert [len(entry.top) for entry in event.scored] == [1, 1]


@pytest.mark.parametrize(("code", "kind"), [("engine_unavailable", EngineUnavailable), ("server_error", GenerationFailed)])
async def test_a_failed_request_raises_what_the_engine_says(code: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="the model failed"):
        await events_of([FinishedOutput("r", FinishReason.ERROR, Usage(), code, "the model failed")])
