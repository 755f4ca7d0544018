"""What a client sees of its answer, in order: words, pictures, progress, the end. The HTTP layer puts them into a wire format.

``choice`` numbers the answers of one ask. ``part`` numbers the pieces of one answer, text and pictures alike, from 0 without gaps:
text between two pictures is a piece of its own.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

import msgspec

from server.messages import FinishReason, Usage
from server.serving.asks import PictureFormat


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


class TextEvent(msgspec.Struct, frozen=True):
    """The next words of piece ``part``. ``scored`` holds the tokens that completed them, when asked for."""

    choice: int
    part: int
    text: str
    scored: list[ScoredToken] = []


@dataclass(frozen=True, slots=True)
class ThoughtEvent:
    """The next words of a plan that precedes a picture; not part of the answer."""

    choice: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEvent:
    """The answer calls tool ``name``, as its call ``index`` (from 0); ``arguments`` is JSON."""

    choice: int
    index: int
    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class PictureEvent:
    """Picture ``index`` of the answer, whole, as a file. ``size`` is (width, height); ``address`` is where it can be had, if kept."""

    choice: int
    part: int
    index: int
    encoded: bytes
    output_format: PictureFormat
    size: tuple[int, int]
    address: str | None = None

    @property
    def url(self) -> str:
        """Where the picture is: its address, else a data URI."""
        return self.address or f"data:{self.output_format.media_type};base64,{self.base64}"

    @property
    def base64(self) -> str:
        """The file in base64."""
        return b64encode(self.encoded).decode("ascii")


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

    @property
    def base64(self) -> str:
        """The file in base64."""
        return b64encode(self.webp).decode("ascii")


@dataclass(frozen=True, slots=True)
class FinishedEvent:
    """An answer is complete; its last event. ``num_thought_tokens`` of its text tokens were thoughts, ``num_calls`` tools are called."""

    choice: int
    reason: FinishReason
    usage: Usage
    num_thought_tokens: int = 0
    num_calls: int = 0


Event = TextEvent | ThoughtEvent | CallEvent | PictureEvent | ProgressEvent | PreviewEvent | FinishedEvent
