"""What a client sees of its answer, in order: words, pictures, progress, the end. The HTTP layer puts them into a wire format.

``choice`` numbers the answers of one ask. ``part`` numbers the pieces of one answer, text and pictures alike, from 0 without gaps:
text between two pictures is a piece of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from server.messages import FinishReason, Usage


@dataclass(frozen=True, slots=True)
class AlternativeToken:
    """A token and how likely it was. ``utf8`` may be part of a character."""

    text: str
    utf8: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of the answer with its most likely alternatives, best first."""

    token: AlternativeToken
    top: list[AlternativeToken]


@dataclass(frozen=True, slots=True)
class TextEvent:
    """The next words of piece ``part``. ``scored`` holds the tokens that completed them, when asked for."""

    choice: int
    part: int
    text: str
    scored: list[ScoredToken] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ThoughtEvent:
    """The next words of a plan that precedes a picture; not part of the answer."""

    choice: int
    text: str


@dataclass(frozen=True, slots=True)
class PictureEvent:
    """Picture ``index`` of the answer, whole, as a data URI."""

    choice: int
    part: int
    index: int
    url: str


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """Step ``step`` of ``num_steps`` of picture ``index`` is done."""

    choice: int
    index: int
    step: int
    num_steps: int


@dataclass(frozen=True, slots=True)
class PreviewEvent:
    """Rough picture ``preview`` (counted from 0) of what picture ``index`` is becoming after ``step`` of ``num_steps``, as WebP."""

    choice: int
    index: int
    preview: int
    step: int
    num_steps: int
    webp: bytes


@dataclass(frozen=True, slots=True)
class FinishedEvent:
    """An answer is complete; its last event."""

    choice: int
    reason: FinishReason
    usage: Usage


Event = TextEvent | ThoughtEvent | PictureEvent | ProgressEvent | PreviewEvent | FinishedEvent
