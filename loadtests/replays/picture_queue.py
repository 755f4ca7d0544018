"""The queue before a peer's image engine: first in, first out, and only pictures that look alike share the engine.

vLLM-Omni 0.30 (``diffusion/sched/base_scheduler.py``): a waiting request is let in while the running ones have its compatibility key
(size, number of steps, guidance settings); the first that has not holds up everything behind it. The step scheduler is modelled, which
lets an equal picture in between two denoise steps; the request scheduler, its other form, would make it wait for the wave to end.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from server.messages import ImageParams, Request


def compatibility_key(params: ImageParams) -> ImageParams:
    """Return what two pictures must have in common to be drawn together: everything but the seed and the count."""
    return replace(params, seed=0, max_images=1)


@dataclass(slots=True)
class PictureQueue:
    """Requests waiting for the image engine and the ids of those inside.

    Attributes:
        max_pictures: how many the engine draws at once; vLLM-Omni deploys BAGEL with 1 (``deploy/bagel.yaml``, ``max_num_seqs``).
    """

    max_pictures: int
    waiting: deque[Request] = field(default_factory=deque)
    running: set[str] = field(default_factory=set)
    _running_key: ImageParams | None = None

    def put(self, request: Request) -> None:
        self.waiting.append(request)

    def take(self) -> list[Request]:
        """Return the requests that may go in now, in order."""
        taken: list[Request] = []
        while self.waiting and len(self.running) < self.max_pictures:
            key = compatibility_key(self.waiting[0].image)
            if self.running and key != self._running_key:
                break
            request = self.waiting.popleft()
            self._running_key = key
            self.running.add(request.request_id)
            taken.append(request)
        return taken

    def finish(self, request_id: str) -> None:
        """Note that a picture is out."""
        self.running.discard(request_id)
