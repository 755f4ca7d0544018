"""How busy is the device while the engine works? What share of the time its kernels fill, and which take it.

    python -m loadtests.gpu.busy --out DIR [--device cpu --tiny]

Time that no kernel fills is the host's: work in Python that the device waits for. On a CPU, for rehearsal, operators count.

A profiler sees what ran between the first kernel of its trace and the end of the last, and both the kernels' time and what it is a share of
are taken from there: steps run ahead, so that a trace of twenty steps has kernels of a twenty-first, and the host's clock is not the
device's. Of graphs that are replayed it may see other times than there were (pytorch/kineto#1165, before CUDA 13.1). Steps that are
replayed are therefore timed without one too: replays back to back, by the device's own clock, beside the steps they are part of. What a
step does besides, its draws among that, keeps the device busy and is not in a replay, so that share is the least there can be.

What is timed without a profiler comes before the first one: what that has attached to the process stays there, and slows the launches that
follow (pytorch/pytorch#144455).
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from loadtests.gpu.part import Line, Options, Report, read_options
from loadtests.gpu.random_engine import drain, from_idle, random_engine, step
from loadtests.gpu.timing import back_to_back
from loadtests.gpu.traffic import Traffic
from server.engine.decode_graphs import Capture, CudaCapture, Replay
from server.engine.graph_warming import warm_graphs
from server.engine.process import LoadedEngine

NUM_STEPS = 20
NUM_NAMED = 8
"""So many kernels are named in each line's table."""


class WatchedReplays:
    """Captures as another does, and knows which graph was replayed last."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self.last: Replay | None = None

    def __call__(self, work: Replay) -> Replay:
        replay = self._capture(work)

        def watched() -> torch.Tensor:
            self.last = replay
            return replay()

        return watched


def main(arguments: list[str] | None = None) -> int:
    options = read_options("busy", arguments)
    side, chats = (16, 2) if options.is_tiny else (512, 32)
    loaded, replays = warm_engine(options, chats)
    busy, kernels = Report(options, "busy"), Report(options, "busiest-kernels")
    traffics = [Traffic(side, num_pictures, num_chats) for num_pictures, num_chats in ((4, chats), (0, chats), (1, 0), (0, 1))]

    def profiled_line(traffic: Traffic) -> Line:
        line, largest = watch(loaded, options, traffic)
        kernels.keep({"what": traffic.name, **one} for one in largest)
        return line

    for traffic in traffics:
        busy.add(traffic.name, from_idle(loaded, partial(time_steps, loaded, replays, options, traffic)))
    for traffic in traffics:
        busy.add(f"{traffic.name}, watched", from_idle(loaded, partial(profiled_line, traffic)))
    return int(busy.has_failed)


def warm_engine(options: Options, num_chats: int) -> tuple[LoadedEngine, WatchedReplays]:
    """Build an engine that has captured its decode steps: the third of a size would be captured while it is watched."""
    loaded = random_engine(options)
    replays = WatchedReplays(CudaCapture() if options.device.type == "cuda" else lambda work: work)
    loaded.runner.capture_decodes(replays)
    warm_graphs(loaded.runner, num_chats, lambda: True, lambda *_: None)
    return loaded, replays


def time_steps(loaded: LoadedEngine, replays: WatchedReplays, options: Options, traffic: Traffic) -> Line:
    """Time steady steps, and replay those that can be."""
    traffic.begin(loaded)
    replays.last = None
    step_s = steady_step_s(loaded)
    drain(loaded)
    line: Line = {"what": traffic.name, "ms/step": 1e3 * step_s}
    if replays.last is None or traffic.num_pictures:
        return line
    with torch.inference_mode():
        replay_s = back_to_back(replays.last, options.device)
    return line | {"replay ms": 1e3 * replay_s, "replay/step": replay_s / step_s}


def watch(loaded: LoadedEngine, options: Options, traffic: Traffic) -> tuple[Line, list[Line]]:
    """Profile steady steps; return how busy the device was, and the kernels that took the most."""
    traffic.begin(loaded)
    trace, step_s = profiled(loaded, options)
    drain(loaded)
    largest: list[Line] = [{"kernel": name[:80], "share": share} for name, share in trace.largest(NUM_NAMED)]
    return {"what": f"{traffic.name}, watched", "ms/step": 1e3 * step_s, "busy": trace.busy}, largest


def steady_step_s(loaded: LoadedEngine) -> float:
    """Return the seconds of one of the steps to come."""
    return median(step(loaded).step_s for _ in range(NUM_STEPS))


@dataclass(frozen=True, slots=True)
class Kernel:
    """What ran, and from when to when, in microseconds."""

    name: str
    start_us: float
    end_us: float


class Trace:
    """What ran on the device, from the first start to the last end.

    Raises:
        ValueError: nothing did, as far as was seen: how busy it was is not known.
    """

    def __init__(self, kernels: Iterable[Kernel]) -> None:
        self._kernels = list(kernels)
        if not self._kernels:
            raise ValueError("not measured: the profiler saw no kernel on the device")
        self.span_us = max(kernel.end_us for kernel in self._kernels) - min(kernel.start_us for kernel in self._kernels)

    @property
    def busy(self) -> float:
        """Share of the time in which anything ran."""
        return covered((kernel.start_us, kernel.end_us) for kernel in self._kernels) / self.span_us

    def largest(self, num: int) -> list[tuple[str, float]]:
        """Return those that took the most, each with its share; kernels that overlap count both."""
        times: defaultdict[str, float] = defaultdict(float)
        for kernel in self._kernels:
            times[kernel.name] += kernel.end_us - kernel.start_us
        largest = sorted(times.items(), key=lambda one: -one[1])[:num]
        return [(name, us / self.span_us) for name, us in largest]


def profiled(loaded: LoadedEngine, options: Options) -> tuple[Trace, float]:
    """Return what runs on the device during a few steps, and the seconds of one; the host is not traced, since that would slow it."""
    activity = ProfilerActivity.CUDA if options.device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        step_s = steady_step_s(loaded)
    ran = (event for event in profiler.events() or [] if event.device_type.name == activity.name and not event.is_user_annotation)
    return Trace(Kernel(event.name, event.time_range.start, event.time_range.end) for event in ran), step_s


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length that intervals cover together, where they overlap once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


if __name__ == "__main__":
    sys.exit(main())
