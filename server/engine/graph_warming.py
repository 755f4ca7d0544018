"""Captures the usual decode steps while the engine starts, so that no answer waits for it later.

A capture takes a step's launches twice, a tenth of a second perhaps, and there is one for each number of rows; when serving, each would be
a pause between two tokens of everybody. What is not captured here, since time or memory was out, is captured when it comes again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from server.engine.batch import Batch, DecodeRow, Draw
from server.engine.graph_sizes import ROWS, rows_for
from server.messages import SamplingParams

LIMIT_S = 20.0


class Captures(Protocol):
    """A runner that captures decode steps."""

    def capture(self, batch: Batch) -> bool:
        """Capture the graph that would serve a step of decode rows; returns whether there is one."""
        ...


def warm_graphs(
    runner: Captures,
    max_running: int,
    has_room: Callable[[], bool],
    report: Callable[[int, int], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Capture steps of up to ``max_running`` rows, the largest first, whose memory the smaller ones share.

    Stops when `LIMIT_S` are over, when there is no room for another, or at the first that cannot be captured. ``report`` is told how many
    of how many are done. The rows write into the first page: nobody may own it yet.
    """
    most = rows_for(min(max_running, ROWS[-1])) or ROWS[-1]
    wanted = [rows for rows in reversed(ROWS) if rows <= most]
    ends_s = clock() + LIMIT_S
    for number, rows in enumerate(wanted, start=1):
        if clock() >= ends_s or not has_room() or not runner.capture(Batch(decodes=[_row(k) for k in range(rows)])):
            return
        report(number, len(wanted))


def _row(number: int) -> DecodeRow:
    """Return the first token of a context in the first page."""
    return DecodeRow(number, [0], 0, 0, 0, Draw(SamplingParams(), 0, ()))
