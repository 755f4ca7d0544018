"""How fast is the engine with a model of full size and random weights: pictures, words, and both at once?

    python -m loadtests.gpu.engine --out DIR [--device cpu --tiny]

Times are of whole pictures and of steady steps, beside the floors of DESIGN: what the branches needed multiply, at the
matrix rate, and what a token reads, at the bandwidth, both measured in this very run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from statistics import median

import torch

from loadtests.costs import decode_bytes
from loadtests.gpu.beside import measure_decoder
from loadtests.gpu.ceilings import rate_lines
from loadtests.gpu.mixed import mixed_lines
from loadtests.gpu.part import Line, Options, Report, read_options
from loadtests.gpu.pictures import measure_edit, measure_picture
from loadtests.gpu.random_engine import SERVER_TARGET_S, chat_request, drain, from_idle, random_engine, step, with_target
from loadtests.gpu.traffic import Traffic
from loadtests.machine import Machine
from server.engine.graph_sizes import ROWS
from server.engine.graph_warming import warm_graphs
from server.engine.process import LoadedEngine

NUM_STEPS = 40
OVER_HTTP: Line = {"what": "20 timesteps end to end over HTTP", "not measured": "the server's front needs packages that are not here"}


def main(arguments: list[str] | None = None) -> int:
    options = read_options("engine", arguments)
    loaded = random_engine(options)
    rates = Machine(options.device, loaded.model.dtype).probe()
    report = Report(options, "engine")
    report.add("rates", partial(rate_lines, rates))
    report.add("graphs", partial(measure_graphs, loaded, options))
    for concurrency, context in ((1, 20), (3, 20)) if options.is_tiny else ((1, 30), (16, 2000), (64, 2000)):
        report.add("decode", from_idle(loaded, partial(measure_decode, loaded, concurrency, context, rates.read_gbps)))
    for side, num_timesteps in ((16, 3),) if options.is_tiny else ((512, 50), (1024, 50), (512, 20)):
        report.add("picture", from_idle(loaded, partial(measure_picture, loaded, side, num_timesteps, rates.matmul_gflops)))
    report.add("HTTP", lambda: OVER_HTTP)
    side, num_timesteps = (16, 3) if options.is_tiny else (512, 50)
    report.add("edit", from_idle(loaded, partial(measure_edit, loaded, side, num_timesteps, rates.matmul_gflops)))
    small, large = (Traffic(16, 1, 2), Traffic(32, 1, 2)) if options.is_tiny else (Traffic(512, 4, 32, 500), Traffic(1024, 2, 32, 500))
    for traffic in (small, large):
        report.add("mixed", from_idle(loaded, partial(measure_as_served, loaded, traffic)))
    report.add("mixed, no target", from_idle(loaded, partial(mixed_lines, loaded, small, "no target")))
    report.add("decoder", from_idle(loaded, partial(measure_decoder, loaded, options)))
    report.add("launches", from_idle(loaded, partial(measure_launches, loaded, options, rates.read_gbps)))
    return int(report.has_failed)


def measure_as_served(loaded: LoadedEngine, traffic: Traffic) -> Iterator[Line]:
    """Watch traffic under the target that a server has where nothing else is set."""
    return mixed_lines(with_target(loaded), traffic, f"target {1e3 * SERVER_TARGET_S:.0f} ms")


def measure_graphs(loaded: LoadedEngine, options: Options) -> Line:
    """Capture the usual decode steps as at the start of a server: how many, and the seconds and the memory of all."""
    num, is_gpu = 0, options.device.type == "cuda"

    def report(done: int, _: int) -> None:
        nonlocal num
        num = done

    free = free_bytes() if is_gpu else 0
    started = time.perf_counter()
    warm_graphs(loaded.runner, 3 if options.is_tiny else ROWS[-1], lambda: True, report)
    line: Line = {"what": "decode steps captured", "value": time.perf_counter() - started, "unit": "s", "graphs": num}
    return line | ({"GiB": (free - free_bytes()) / 2**30} if is_gpu else {})


def free_bytes() -> int:
    """Return the memory of the GPU that nothing holds: what PyTorch keeps for later counts as free."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def measure_decode(loaded: LoadedEngine, concurrency: int, num_context: int, read_gbps: float) -> Line:
    """Time steady steps of chats that only decode."""
    for number in range(concurrency):
        loaded.engine.submit(chat_request(f"chat {number}", num_context, 10_000))
    while step(loaded).num_decode_rows != concurrency:
        pass
    step_s = median(step(loaded).step_s for _ in range(NUM_STEPS))
    drain(loaded)
    itemsize = loaded.model.dtype.itemsize
    weights = decode_bytes(loaded.model.config, 0, itemsize)
    num_bytes = weights + concurrency * (decode_bytes(loaded.model.config, num_context, itemsize) - weights)
    floor_s = num_bytes / read_gbps / 1e9
    name = f"decode, batch {concurrency}, context {num_context}"
    line: Line = {"what": name, "value": 1e3 * step_s, "unit": "ms/step", "floor": 1e3 * floor_s, "of floor": step_s / floor_s}
    line["tokens/s"] = concurrency / step_s
    return line


def measure_launches(loaded: LoadedEngine, options: Options, read_gbps: float) -> Line:
    """Time decode steps that are not replayed: what their launches cost."""
    graphs, loaded.runner.decode_graphs = loaded.runner.decode_graphs, None
    try:
        line = measure_decode(loaded, 1, 20 if options.is_tiny else 30, read_gbps)
    finally:
        loaded.runner.decode_graphs = graphs
    return line | {"what": f"{line['what']}, launch by launch"}


if __name__ == "__main__":
    sys.exit(main())
