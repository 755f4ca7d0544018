"""Reads what a model writes into what it means: thoughts between think tags, calls of tools between call tags, words elsewhere.

Text comes in pieces that may cut a tag anywhere; what may be the beginning of one is held back until it is told apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from server.serving.tools import CALL_BEGIN, CALL_END

THINK_BEGIN = "<think>"
THINK_END = "</think>"


class Thinking(Enum):
    """Where an answer's thoughts are."""

    NONE = auto()
    FIRST = auto()
    """Between tags at the beginning, if the model begins so."""
    ALL = auto()
    """Everything is a plan; its tags say nothing."""


@dataclass(frozen=True, slots=True)
class Words:
    """Text of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Text of a plan, without its tags."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """``arguments`` is JSON."""

    name: str
    arguments: str


Piece = Words | Thought | Call


class _State(Enum):
    START = auto()
    THOUGHT = auto()
    WORDS = auto()
    CALL = auto()


class ReplyReader:
    """Reads one answer. ``tool_names`` are the tools it may call."""

    def __init__(self, thinking: Thinking, tool_names: Iterable[str]) -> None:
        self._thinking = thinking
        self._tool_names = frozenset(tool_names)
        self._state = _State.WORDS if thinking is Thinking.NONE else _State.START
        self._held = ""
        self._drops_space = False
        self.is_plain = thinking is Thinking.NONE and not self._tool_names
        """Every text is words, so that nothing need be read."""

    @property
    def is_in_thought(self) -> bool:
        """Whether what is being read belongs to a thought."""
        return self._state is _State.THOUGHT or self._thinking is Thinking.ALL

    def push(self, text: str) -> list[Piece]:
        """Take the next text and return what is certain by now."""
        if self.is_plain:
            return [Words(text)] if text else []
        self._held += text
        pieces: list[Piece] = []
        while self._held and self._step(pieces):
            pass
        return pieces

    def flush(self) -> list[Piece]:
        """End the text: return what was held back. A call that was cut off is shown as it was written."""
        text, self._held = self._held, ""
        if self._state is _State.CALL:
            self._state = _State.WORDS
            text = CALL_BEGIN + text
        return self._shown(text)

    def _step(self, pieces: list[Piece]) -> bool:
        """Read as far as the next tag; False when more text is needed."""
        match self._state:
            case _State.START:
                return self._start()
            case _State.THOUGHT:
                return self._until(THINK_END, pieces)
            case _State.CALL:
                return self._read_call(pieces)
            case _State.WORDS if self._tool_names:
                return self._until(CALL_BEGIN, pieces)
            case _State.WORDS:
                pieces += self._shown(self._held)
                self._held = ""
                return False

    def _start(self) -> bool:
        """See whether the answer begins with a thought."""
        text = self._held.lstrip()
        if len(text) < len(THINK_BEGIN) and THINK_BEGIN.startswith(text):
            return False
        if text.startswith(THINK_BEGIN):
            self._held = text[len(THINK_BEGIN) :]
            self._state = _State.THOUGHT
            self._drops_space = True
        else:
            self._state = _State.THOUGHT if self._thinking is Thinking.ALL else _State.WORDS
        return True

    def _until(self, tag: str, pieces: list[Piece]) -> bool:
        """Show what stands before ``tag`` and go on behind it."""
        before, found, after = self._held.partition(tag)
        if not found:
            num_shown = len(self._held) - _num_held(self._held, tag)
            pieces += self._shown(self._held[:num_shown])
            self._held = self._held[num_shown:]
            return False
        pieces += self._shown(before.rstrip())
        self._held = after
        self._drops_space = True
        if tag == CALL_BEGIN:
            self._state = _State.CALL
        elif self._thinking is not Thinking.ALL:
            self._state = _State.WORDS
        return True

    def _read_call(self, pieces: list[Piece]) -> bool:
        written, found, after = self._held.partition(CALL_END)
        if not found:
            return False
        self._state = _State.WORDS
        self._held = after
        call = self._call(written)
        if call is None:
            pieces += self._shown(CALL_BEGIN + written + CALL_END)
        else:
            pieces.append(call)
        self._drops_space = True
        return True

    def _call(self, written: str) -> Call | None:
        """Return the call that was written; None when it is none of ours."""
        try:
            value = json.loads(written)
            if not isinstance(value, dict) or value.get("name") not in self._tool_names or not isinstance(value.get("arguments"), dict):
                return None
            arguments = json.dumps(value["arguments"], ensure_ascii=False)
            arguments.encode()  # half a surrogate pair, which JSON may spell, is no text
        except (ValueError, RecursionError):
            return None
        return Call(value["name"], arguments)

    def _shown(self, text: str) -> list[Piece]:
        if self._drops_space:
            text = text.lstrip()
        if not text:
            return []
        self._drops_space = False
        return [Thought(text) if self.is_in_thought else Words(text)]


def _num_held(text: str, tag: str) -> int:
    """Return the length of the end of ``text`` that may belong to ``tag``: its beginning, and the white space before it."""
    num_of_tag = next((length for length in range(min(len(tag) - 1, len(text)), 0, -1) if tag.startswith(text[-length:])), 0)
    return len(text) - len(text[: len(text) - num_of_tag].rstrip())
