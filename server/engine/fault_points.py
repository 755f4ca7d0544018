"""Places where a test may break an engine on purpose; nothing happens at them unless the engine is started with a directory for it.

A file ``POINT.KIND`` in the directory breaks the engine when it next comes to that point, once: the file is gone when it has. Points:
``prefill``, ``decode``, ``denoise``, ``vae`` (a step with such a row, before the model runs) and ``last`` (an answer is complete and its
end not yet said). Kinds: ``raise`` an exception, ``hang`` for ever, ``hold`` the step for `HOLD_S` seconds, for others to be at fault
meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from server.engine.batch import Batch

HOLD_S = 2.0
HANG_S = 3600.0


class InjectedFault(RuntimeError):
    """What ``raise`` raises."""


class FaultPoints:
    """The points of one engine; without a directory they cost nothing."""

    def __init__(self, directory: Path | None, sleep: Callable[[float], None] = time.sleep) -> None:
        self._directory = directory
        self._sleep = sleep

    def in_step(self, batch: Batch) -> None:
        """Come to the points of a step.

        Raises:
            InjectedFault: a test wants it.
        """
        if self._directory is not None:
            for point in _points(batch):
                self._reach(point)

    def before_end(self) -> None:
        """Come to the point where an answer is complete."""
        if self._directory is not None:
            self._reach("last")

    def _reach(self, point: str) -> None:
        if self._is_armed(f"{point}.hold"):
            self._sleep(HOLD_S)
        if self._is_armed(f"{point}.hang"):
            self._sleep(HANG_S)
        if self._is_armed(f"{point}.raise"):
            raise InjectedFault(point)

    def _is_armed(self, name: str) -> bool:
        assert self._directory is not None
        try:
            (self._directory / name).unlink()
        except FileNotFoundError:
            return False
        return True


NO_FAULTS = FaultPoints(None)


def _points(batch: Batch) -> Iterator[str]:
    if batch.prefills:
        yield "prefill"
    if batch.decodes:
        yield "decode"
    if any(step.is_last for step in batch.denoises):
        yield "vae"
    if any(not step.is_last for step in batch.denoises):
        yield "denoise"
