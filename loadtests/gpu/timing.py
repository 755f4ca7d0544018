"""How long work takes on the device alone, and how that was found."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from loadtests.gpu.part import Line
from server.engine.decode_graphs import Capture, CudaCapture

REPEATS = 20
CALLS = 10
"""In one graph, so that what launching the graph takes is shared."""
LONG_S = 2e-3
"""Longer work is timed call by call: its launches are hidden behind it."""
HEAD_START_CYCLES = 100_000
"""Some 50 us that a GPU waits before its clock starts, so that a graph has been launched by then: that takes as long as a small kernel."""

Work = Callable[[], object]
Stopwatch = Callable[[Work], float]
"""Returns the seconds that work takes, its launches from the host included where the device is faster than they are."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call, and how they were taken: only those of a graph are the device's alone."""

    seconds: float
    way: str

    @property
    def columns(self) -> Line:
        """What a table says of it."""
        return {"us": 1e6 * self.seconds, "timed": self.way}


def timing(work: Work, device: torch.device) -> Timing:
    """Time ``work``, which has run before, and waits for nothing and uploads nothing; on a GPU without the host, where it can be captured.

    Inputs small enough for the device's cache are found there.
    """
    if device.type != "cuda" or _by_events(work, repeats=5) > LONG_S:
        return timing_with_host(work, device)
    return timing_as_graph(work, CudaCapture(), partial(_by_events, head_start_cycles=HEAD_START_CYCLES))


def timing_with_host(work: Work, device: torch.device) -> Timing:
    """Time ``work``, which has run before, call by call: what is waited for or uploaded within it cannot be captured."""
    if device.type != "cuda":
        started = time.perf_counter()
        work()
        return Timing(time.perf_counter() - started, "on the host")
    return Timing(_by_events(work), "call by call")


def timing_as_graph(work: Work, capture: Capture, stopwatch: Stopwatch) -> Timing:
    """Time several calls captured as one graph; call by call, and saying why, where that fails.

    With PyTorch 2.11 it then fails for whatever else this process would capture.
    """
    nothing = torch.empty(0)

    def repeated() -> torch.Tensor:
        for _ in range(CALLS):
            work()
        return nothing

    try:
        replay = capture(repeated)
    except RuntimeError as error:
        return Timing(stopwatch(work), f"call by call, not captured: {str(error).partition(chr(10))[0][:80]}")
    replay()
    return Timing(stopwatch(replay) / CALLS, "in a graph")


def back_to_back(work: Work, device: torch.device) -> float:
    """Return the seconds that each of several runs of ``work`` takes the device when it need not wait for the host between them.

    ``work`` has run before, and its launches are faster than it is.
    """
    if device.type != "cuda":
        return timing_with_host(work, device).seconds

    def repeated() -> None:
        for _ in range(CALLS):
            work()

    return _by_events(repeated) / CALLS


def _by_events(work: Work, repeats: int = REPEATS, head_start_cycles: int = 0) -> float:
    times: list[float] = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        if head_start_cycles:
            torch.cuda._sleep(head_start_cycles)
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return median(times[repeats // 3 :])
