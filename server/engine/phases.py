"""Watches what each request is doing and for how long, so that the front can measure and trace it. Changes nothing.

The loop shows it the running sequences after every decision; a request that is neither there nor finished is waiting again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from server.engine.sequence import Phase, Sequence
from server.messages import FinishedOutput, ImageOutput, PhaseSpan, RequestPhase, Timeline

MAX_SPANS = 128
"""Spans kept of one request: a story of forty pictures has that many."""

WORKING = {
    Phase.PREFILL: RequestPhase.PREFILL,
    Phase.DECODE: RequestPhase.DECODE,
    Phase.DENOISE: RequestPhase.DENOISE,
    Phase.VAE: RequestPhase.VAE,
}


@dataclass(slots=True)
class _Life:
    """A request since it arrived: what it has been doing since when, and its closed spans as (phase, start, end)."""

    phase: RequestPhase
    since: float
    spans: deque[tuple[RequestPhase, float, float]] = field(default_factory=lambda: deque(maxlen=MAX_SPANS))

    def turn_to(self, phase: RequestPhase, at: float) -> None:
        if phase is not self.phase:
            self.spans.append((self.phase, self.since, at))
            self.phase, self.since = phase, at


class PhaseWatch:
    """The lives of all requests in the engine. ``clock`` returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lives: dict[str, _Life] = {}
        self._working: dict[str, _Life] = {}
        """Those that were not waiting when it last looked: of all others nothing has changed."""

    def arrived(self, request_id: str) -> None:
        """Start a request's life, in the queue."""
        self._lives[request_id] = _Life(RequestPhase.QUEUE, self._clock())

    def look(self, running: Iterable[Sequence]) -> None:
        """Take note of what every request is doing from now on."""
        now = self._clock()
        before, self._working = self._working, {}
        for sequence in running:
            request_id = sequence.request.request_id
            life = before.pop(request_id, None) or self._lives.get(request_id)
            if life is not None:
                life.turn_to(WORKING.get(sequence.phase, RequestPhase.QUEUE), now)
                self._working[request_id] = life
        for life in before.values():
            life.turn_to(RequestPhase.QUEUE, now)

    def after_step(
        self, images: Iterable[ImageOutput], finished: Iterable[FinishedOutput], running: Iterable[Sequence], vae_s: float
    ) -> list[Timeline]:
        """Take note of what a step brought; return the lives that ended. ``vae_s``: its last seconds, spent on pixels."""
        now = self._clock()
        for image in images:
            life = self._lives[image.request_id]
            life.turn_to(RequestPhase.VAE, max(life.since, now - vae_s))
        timelines = [self._ended(end.request_id, now) for end in finished]
        self.look(running)
        return timelines

    def _ended(self, request_id: str, now: float) -> Timeline:
        life = self._lives.pop(request_id, None)
        if life is None:
            return Timeline(request_id, [])
        spans = [*life.spans, (life.phase, life.since, now)]
        return Timeline(request_id, [PhaseSpan(phase, now - start, now - end) for phase, start, end in spans])
