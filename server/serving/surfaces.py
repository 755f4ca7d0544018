"""What a wire format must do for the answers it is written in to be kept, resumed and taken over: begin again from a body alone.

The HTTP layer implements one `Surface` for each of its formats. The same body and the same stamp make the same reply, piece for piece,
on any replica: whoever continues a dead one's work writes the pieces again from the canon and sends only those that are new.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from server.errors import PlaitError
from server.serving.asks import Ask
from server.serving.events import Event, PictureEvent


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a request is given when it is accepted.

    Attributes:
        created: in Unix seconds.
        seed: for a client that chose none.
        tenant: whose it is.
        base_url: how its client reached this server, without a slash at the end.
    """

    stream_id: str
    created: int
    seed: int
    tenant: str = ""
    base_url: str = ""


class Piece(msgspec.Struct, frozen=True):
    """One event of the wire format. The last one says so; ``name`` is empty where the format names no events."""

    payload: str
    name: str = ""
    is_final: bool = False


class Writer(Protocol):
    """Turns the events of one answer into pieces, the last of them final. It never waits: a token must not cost a turn of its own."""

    def begin(self) -> Iterable[Piece]:
        """Return what stands before every answer."""
        ...

    def take(self, event: Event) -> Iterable[Piece]:
        """Return what clients see of an event.

        Raises:
            GenerationFailed: the server ended the answer.
        """
        ...

    def end(self) -> Iterable[Piece]:
        """Return what follows the last event."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """What is asked, and how the answer is written.

    Attributes:
        writer: writes this answer and no other.
        failure: the final piece when the answer fails.
        kept: puts a picture where its address leads, before it is written; None where answers carry their pictures.
        is_whole: the answer is one piece at the end, which nobody would resume in the middle.
    """

    ask: Ask
    writer: Writer
    failure: Callable[[PlaitError], Piece]
    kept: Callable[[PictureEvent], Awaitable[PictureEvent]] | None = None
    is_whole: bool = False


class Surface(Protocol):
    """One wire format."""

    @property
    def name(self) -> str:
        """What it is called in stored requests; never changed."""
        ...

    @property
    def id_prefix(self) -> str:
        """What the ids of its answers begin with; the answer's id is its stream's."""
        ...

    def open(self, body: bytes, stamp: Stamp) -> Reply:
        """Read a body.

        Raises:
            InvalidRequest: it cannot be done.
        """
        ...
