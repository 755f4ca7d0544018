"""What 8-bit floats and step caching save: the pictures and words of `loadtests.gpu.engine` again, with experts and cache rounded.

    python -m loadtests.gpu.savings --out DIR [--device cpu --tiny]

The figures without either are those of `loadtests.gpu.engine`, measured in the same session; floors are those of bfloat16.
"""

from __future__ import annotations

import sys
from functools import partial

from loadtests.gpu.engine import measure_decode
from loadtests.gpu.part import Line, Report, has_fp8, read_options, write
from loadtests.gpu.pictures import measure_picture
from loadtests.gpu.random_engine import from_idle, random_engine
from loadtests.machine import Machine
from model.step_cache_rules import StepCache
from server.engine.process import LoadedEngine


def main(arguments: list[str] | None = None) -> int:
    options = read_options("savings", arguments)
    if not has_fp8(options.device):
        write(options, "savings", [{"what": "not measured: this GPU has no products of 8-bit floats"}])
        return 0
    loaded = random_engine(options, is_fp8=True)
    rates = Machine(options.device, loaded.model.dtype).probe()
    report = Report(options, "savings")
    for concurrency, context in ((1, 20),) if options.is_tiny else ((1, 30), (64, 2000)):
        report.add("decode", from_idle(loaded, partial(measure_decode, loaded, concurrency, context, rates.read_gbps)))
    for side, num_timesteps in ((16, 9),) if options.is_tiny else ((512, 50), (1024, 50)):
        for cache in (None, StepCache(2), StepCache(3)):
            report.add("picture", from_idle(loaded, partial(measure_cached, loaded, (side, num_timesteps), rates.matmul_gflops, cache)))
    return int(report.has_failed)


def measure_cached(loaded: LoadedEngine, size: tuple[int, int], matmul_gflops: float, cache: StepCache | None) -> Line:
    """Time a picture of so many pixels a side and timesteps."""
    return measure_picture(loaded, *size, matmul_gflops, cache) | {"step cache": "off" if cache is None else cache.interval}


if __name__ == "__main__":
    sys.exit(main())
