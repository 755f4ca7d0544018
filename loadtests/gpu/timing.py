"""How long work takes on the device alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from server.engine.decode_graphs import CudaCapture

REPEATS = 20
CALLS = 10
"""In one graph, so that what launching the graph takes is shared."""
LONG_S = 2e-3
"""Longer work is timed call by call: its launches are hidden behind it."""

Work = Callable[[], object]


def seconds(work: Work, device: torch.device) -> float:
    """Return the median time of ``work``, which has run before; on a GPU without the host's, where work can be captured as a graph.

    Inputs small enough for the device's cache are found there.
    """
    if device.type != "cuda":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    alone_s = _by_events(work, repeats=5)
    if alone_s > LONG_S:
        return _by_events(work)
    stream = torch.cuda.current_stream()
    try:
        replay = _captured(work)
    except RuntimeError:
        torch.cuda.set_stream(stream)  # a capture that fails leaves its own behind
        return _by_events(work)
    return _by_events(replay) / CALLS


def _captured(work: Work) -> Work:
    """Capture several calls as one graph.

    Raises:
        RuntimeError: the work waits for the device, or copies from memory that is not pinned.
    """
    nothing = torch.empty(0)

    def repeated() -> torch.Tensor:
        for _ in range(CALLS):
            work()
        return nothing

    replay = CudaCapture()(repeated)
    replay()
    return replay


def _by_events(work: Work, repeats: int = REPEATS) -> float:
    times: list[float] = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return median(times[repeats // 3 :])
