"""Whether the server has room for one more request, judged by the engine's latest report: cheap enough to ask before a body is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.errors import Overloaded
from server.serving.engine_client import EngineClient
from server.serving.retry_after import expected_wait_s, retry_after_s

WAITING_SHARE = 0.5
"""Of the time a request has, what it may spend waiting for its turn."""


@dataclass(frozen=True, slots=True)
class Want:
    """What a request would take.

    Attributes:
        draws: it asks for pictures alone, and waits among those.
        deadline_s: how long its client waits for its end; None when that is not known.
    """

    draws: bool
    num_answers: int = 1
    deadline_s: float | None = None


class Room:
    """The room that one engine has. ``max_in_flight``: how many answers may be on their way to it, waiting or under way."""

    def __init__(self, engine: EngineClient, max_in_flight: int) -> None:
        self._engine = engine
        self._max_in_flight = max_in_flight
        self._num_held = 0

    @contextmanager
    def place(self, want: Want) -> Iterator[None]:
        """Hold the place of a request on its way to the engine.

        Raises:
            Overloaded: it must come back later.
        """
        refusal = self.refusal(want)
        if refusal is not None:
            raise refusal
        self._num_held += want.num_answers
        try:
            yield
        finally:
            self._num_held -= want.num_answers

    def refusal(self, want: Want) -> Overloaded | None:
        """Return why a request must come back later; None if it may come in."""
        engine = self._engine
        if engine.num_in_flight + self._num_held + want.num_answers > self._max_in_flight:
            return self._overloaded(want, f"The server has {self._max_in_flight} requests in flight, as many as it takes.")
        limits = engine.status.limits
        if limits is not None and engine.latest.waiting >= limits.max_waiting:
            return self._overloaded(want, f"{limits.max_waiting} requests are waiting, as many as the server lets wait.")
        return self._too_late(want)

    def _too_late(self, want: Want) -> Overloaded | None:
        """Refuse at once what would still be waiting when its time is half over: an accepted request should keep its deadline."""
        if want.deadline_s is None:
            return None
        wait_s = expected_wait_s(self._engine.latest, self._engine.num_in_flight, wants_pictures=want.draws)
        if wait_s is None or wait_s <= WAITING_SHARE * want.deadline_s:
            return None
        return self._overloaded(want, f"About {wait_s:.0f} s of work is waiting, too much for an answer within {want.deadline_s:g} s.")

    def _overloaded(self, want: Want, why: str) -> Overloaded:
        seconds = retry_after_s(self._engine.latest, self._engine.num_in_flight, wants_pictures=want.draws)
        return Overloaded(f"{why} Try again in {seconds:.0f} s.", seconds)
