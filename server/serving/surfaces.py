"""What a wire format must do for the answers it is written in to be kept, resumed and taken over: begin again from a body alone.

The HTTP layer implements one `Surface` for each of its formats. The same body and the same stamp make the same reply, piece for piece,
on any replica: whoever continues a dead one's work writes the pieces again from the canon and sends only those that are new.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from server.errors import PlaitError
from server.serving.asks import Ask
from server.serving.events import Event


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


@dataclass(frozen=True, slots=True)
class Piece:
    """One event of the wire format. The last one says so; ``name`` is empty where the format names no events."""

    payload: str
    name: str = ""
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What is asked, and how the answer is written.

    Attributes:
        write: turns the answer's events into pieces, the last of them final; may let errors of the events through.
        failure: the final piece when it does.
        is_whole: the answer is one piece at the end, which nobody would resume in the middle.
    """

    ask: Ask
    write: Callable[[AsyncIterator[Event]], AsyncIterator[Piece]]
    failure: Callable[[PlaitError], Piece]
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
