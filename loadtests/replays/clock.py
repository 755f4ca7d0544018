"""Two clocks with one face: the machine's, for real engines, and one that only moves when it is told to, for simulated ones."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since it was made."""

    def now(self) -> float: ...

    def wait_until(self, time_s: float) -> float:
        """Let ``now`` be at least ``time_s``; return the seconds for which an engine has to be told that it was idle."""
        ...


class WorkingClock:
    """Time as it passes while there is work; idle time is skipped, since nothing happens in it and it would only be waited out.

    It stands still while others have the machine, between `pause` and `go_on`.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._paused_at: float | None = None

    def now(self) -> float:
        return (time.perf_counter() if self._paused_at is None else self._paused_at) - self._start

    def pause(self) -> None:
        self._paused_at = time.perf_counter()

    def go_on(self) -> None:
        if self._paused_at is not None:
            self._start += time.perf_counter() - self._paused_at
            self._paused_at = None

    def wait_until(self, time_s: float) -> float:
        skipped_s = max(0.0, time_s - self.now())
        self._start -= skipped_s
        return skipped_s


class VirtualClock:
    """Time as it is counted: waiting takes none."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def wait_until(self, time_s: float) -> float:
        self._now = max(self._now, time_s)
        return 0.0

    def advance(self, seconds: float) -> None:
        self._now += seconds
