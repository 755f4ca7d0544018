"""How busy is the device while the engine works? What share of a step its kernels fill, and which take the time.

    python -m loadtests.gpu.busy --out DIR [--device cpu --tiny]

A step's time that no kernel fills is the host's: work in Python that the device waits for. On a CPU, for rehearsal, operators count.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial

from torch.profiler import ProfilerActivity, profile

from loadtests.gpu.engine import chat_request, drain, picture_request, random_engine, step
from loadtests.gpu.part import Line, Options, Report, read_options
from model.config import BagelConfig
from server.engine.graph_warming import warm_graphs
from server.engine.process import LoadedEngine

NUM_STEPS = 20
NUM_NAMED = 8
"""So many kernels are named in each line's table."""


def main(arguments: list[str] | None = None) -> int:
    options = read_options("busy", arguments)
    side, chats = (16, 2) if options.is_tiny else (512, 32)
    loaded = warm_engine(options, chats)
    ways = {"a picture": (1, 0), "one chat": (0, 1), f"{chats} chats": (0, chats), f"4 pictures beside {chats} chats": (4, chats)}
    busy, kernels = Report(options, "busy"), Report(options, "busiest-kernels")

    def of(name: str, num_pictures: int, num_chats: int) -> Line:
        line, largest = measure(loaded, options, side, num_pictures, num_chats)
        kernels.add(name, lambda: [{"what": name, **one} for one in largest])
        return {"what": name, **line}

    for name, (num_pictures, num_chats) in ways.items():
        busy.add(name, partial(of, name, num_pictures, num_chats))
        drain(loaded)
    return int(busy.has_failed)


def warm_engine(options: Options, num_chats: int) -> LoadedEngine:
    """Build an engine that has captured its decode steps: the third of a size would be captured while it is watched."""
    loaded = random_engine(BagelConfig.named("tiny" if options.is_tiny else "bagel-7b"), options.device)
    warm_graphs(loaded.runner, num_chats, lambda: True, lambda *_: None)
    return loaded


def measure(loaded: LoadedEngine, options: Options, side: int, num_pictures: int, num_chats: int) -> tuple[Line, list[Line]]:
    """Profile steady steps of pictures and chats that go on for long."""
    for number in range(num_chats):
        loaded.engine.submit(chat_request(f"chat {number}", 10, 10_000))
    for number in range(num_pictures):
        loaded.engine.submit(picture_request(f"picture {number}", side, 1000))
    while (stats := step(loaded)).num_decode_rows < num_chats or (num_pictures and not stats.num_denoise_rows):
        pass
    is_gpu = options.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]) as profiler:
        started = time.perf_counter()
        for _ in range(NUM_STEPS):
            step(loaded)
        elapsed_us = 1e6 * (time.perf_counter() - started)
    drain(loaded)
    wanted = "CUDA" if is_gpu else "CPU"
    events = [event for event in profiler.events() or [] if event.device_type.name == wanted]
    busy_us = covered((event.time_range.start, event.time_range.end) for event in events)
    line: Line = {"busy": busy_us / elapsed_us, "ms/step": elapsed_us / NUM_STEPS / 1e3}
    times: Counter[str] = Counter()
    for event in events:
        times[event.name] += event.time_range.end - event.time_range.start
    return line, [{"kernel": name[:80], "share": us / elapsed_us} for name, us in times.most_common(NUM_NAMED)]


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length that intervals cover together, where they overlap once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


if __name__ == "__main__":
    sys.exit(main())
