"""Progress of long runs, one line on standard error, rewritten on a terminal and now and then appended elsewhere."""

from __future__ import annotations

import sys
import time

TERMINAL_EVERY_S, LOG_EVERY_S = 0.2, 15.0


class Progress:
    """Says which part of a run is under way and how far it is."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._last_s = 0.0
        self._is_terminal = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Write a line of its own."""
        clear = "\r\033[K" if self._is_terminal else ""
        sys.stderr.write(f"{clear}[{self._seconds():6.1f} s] {text}\n")

    def watch(self, part: str, num_done: int, num_all: int) -> None:
        """Say how far ``part`` is, if it is time to."""
        now_s = self._seconds()
        if now_s - self._last_s < (TERMINAL_EVERY_S if self._is_terminal else LOG_EVERY_S):
            return
        self._last_s = now_s
        text = f"[{now_s:6.1f} s] {part}: {num_done} of {num_all}"
        sys.stderr.write(f"\r\033[K{text}" if self._is_terminal else f"{text}\n")
        sys.stderr.flush()

    def _seconds(self) -> float:
        return time.perf_counter() - self._started
