"""What is kept of an accepted request so that any replica can begin it again: its body as it came, and what it was given."""

from __future__ import annotations

import msgspec

from server.serving.surfaces import Stamp


class Spec(msgspec.Struct, frozen=True):
    """A request as stored.

    Attributes:
        deadline_s: seconds from ``created`` after which it is ended.
        weight: its tenant's share of the engine.
        traceparent: the trace it belongs to, whoever continues it.
        grace_s: for how many seconds it goes on without a reader; None: to its end.
    """

    surface: str
    body: bytes
    created: int
    seed: int
    base_url: str
    weight: float
    deadline_s: float
    grace_s: float | None
    traceparent: str | None = None

    def stamp(self, stream_id: str, tenant: str) -> Stamp:
        """Return what the request was given."""
        return Stamp(stream_id, self.created, self.seed, tenant, self.base_url)

    def encode(self) -> bytes:
        """Return the spec as bytes."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, stored: bytes) -> Spec:
        """Read a stored spec.

        Raises:
            msgspec.DecodeError: it is none.
        """
        return msgspec.msgpack.decode(stored, type=cls)
