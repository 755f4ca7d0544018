"""A trace: who comes when and asks for what. Sizes only, no words and no pixels: those follow from the seed when a request is built.

Kept as JSON lines, a header and then one session a line, so that one trace can be replayed anywhere and compared with `diff`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import msgspec


class Kind(Enum):
    """What a session asks for. Chats are answered in words and edits with a picture, over several turns; the others draw, in one."""

    CHAT = "chat"
    PICTURE_CHAT = "picture_chat"
    TEXT_TO_IMAGE = "text_to_image"
    EDIT = "edit"
    STORY = "story"


@dataclass(frozen=True, slots=True)
class Drawing:
    """The pictures a turn asks for, all of one size, and their guidance. Sides in pixels; T timesteps are T - 1 Euler steps."""

    height: int
    width: int
    num_timesteps: int
    text_scale: float
    image_scale: float
    interval: tuple[float, float]
    num_images: int = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """One request.

    Attributes:
        prompt_tokens: words of the user's new message.
        picture_sides: pictures in that message, square, in pixels; later turns send them again as history.
        answer_tokens: words of the answer.
        drawing: the pictures of the answer; None for words alone.
        pause_s: how long the user waits after the answer before, which goes with the request as history; or after arriving.
        again: whether this asks once more what the turn before asked, which is then no history, nor is its answer.
    """

    prompt_tokens: int
    picture_sides: tuple[int, ...]
    answer_tokens: int
    drawing: Drawing | None
    pause_s: float
    again: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """One user's visit. ``seed`` fixes its words, pixels and noise. It may begin with words of the operator's, the same in all sessions."""

    session_id: int
    kind: Kind
    tenant: str
    arrival_s: float
    seed: int
    turns: tuple[Turn, ...]
    operator_tokens: int = 0

    def history(self, index: int) -> list[int]:
        """Return the turns before turn ``index`` that are its history: those that were not asked again."""
        later = self.turns[1 : index + 1]
        return [number for number, turn in enumerate(later) if not turn.again]

    def first_asked(self, index: int) -> int:
        """Return the turn that first asked what turn ``index`` asks."""
        while self.turns[index].again:
            index -= 1
        return index


@dataclass(frozen=True, slots=True)
class Trace:
    """Sessions in order of arrival, over ``horizon_s`` seconds."""

    seed: int
    horizon_s: float
    sessions: tuple[Session, ...]

    @property
    def num_requests(self) -> int:
        return sum(len(session.turns) for session in self.sessions)


@dataclass(frozen=True, slots=True)
class Header:
    """First line of a trace file."""

    seed: int
    horizon_s: float


def write_trace(path: Path, trace: Trace) -> None:
    """Write ``trace`` as JSON lines."""
    lines = [msgspec.json.encode(Header(trace.seed, trace.horizon_s)), *(msgspec.json.encode(session) for session in trace.sessions)]
    path.write_bytes(b"\n".join(lines) + b"\n")


def read_trace(path: Path) -> Trace:
    """Read what `write_trace` wrote.

    Raises:
        msgspec.MsgspecError: a line is not what it should be.
    """
    first, *others = path.read_bytes().splitlines()
    header = msgspec.json.decode(first, type=Header)
    return Trace(header.seed, header.horizon_s, tuple(msgspec.json.decode(line, type=Session) for line in others))
