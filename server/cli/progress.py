"""Says how far something has come: a bar that moves on a terminal, a line of JSON for each step everywhere else."""

from __future__ import annotations

import json
from typing import TextIO

BAR_CHARS = 24
CLEAR_LINE = "\r\x1b[2K"


class Progress:
    """Writes to ``out``, usually standard error, so that what a command answers can be piped on."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_shown = False

    def show(self, what: str, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` steps of something are over."""
        if not self._out.isatty():
            self._out.write(json.dumps({"progress": what, "done": done, "total": total}) + "\n")
        else:
            filled = BAR_CHARS * done // max(1, total)
            self._out.write(f"{CLEAR_LINE}{what} {'━' * filled}{'╌' * (BAR_CHARS - filled)} {done} of {total}")
            self._is_shown = True
        self._out.flush()

    def note(self, what: str) -> None:
        """Say what is going on where nothing can be counted."""
        if self._out.isatty():
            self._out.write(f"{CLEAR_LINE}{what}")
            self._is_shown = True
        else:
            self._out.write(json.dumps({"progress": what}) + "\n")
        self._out.flush()

    def clear(self) -> None:
        """Take the bar away, so that something else can be written."""
        if self._is_shown:
            self._out.write(CLEAR_LINE)
            self._out.flush()
            self._is_shown = False
