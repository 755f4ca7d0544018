"""A clock for what is handed one: it moves only when told to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Clock:
    """Reads ``now``, in seconds, which the test sets."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now
