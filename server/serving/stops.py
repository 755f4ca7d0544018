"""Finds stop strings in text that comes in pieces, without ever letting part of one out."""

from __future__ import annotations

from collections.abc import Sequence


class StopFinder:
    """Looks for the first of several strings; holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.is_found = False

    def push(self, text: str) -> str:
        """Take the next piece and return what may be shown; sets `is_found` when a stop string is complete."""
        if not self._stops:
            return text
        text = self._held + text
        self._held = ""
        positions = [position for stop in self._stops if (position := text.find(stop)) >= 0]
        if positions:
            self.is_found = True
            return text[: min(positions)]
        num_held = self._num_held(text)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def flush(self) -> str:
        """End the text: return what was held back, since no stop string came of it."""
        text, self._held = self._held, ""
        return text

    def _num_held(self, text: str) -> int:
        """Return the length of the longest end of ``text`` that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
