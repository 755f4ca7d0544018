"""What 8-bit floats and step caching save: the pictures and words of `loadtests.gpu.engine` again, with the experts rounded.

    python -m loadtests.gpu.savings --out DIR [--device cpu --tiny]

The figures without either are those of `loadtests.gpu.engine`, measured in the same session.
"""

from __future__ import annotations

import sys

from loadtests.gpu.engine import measure_decode, measure_picture, random_engine
from loadtests.gpu.part import Line, has_fp8, read_options, write
from loadtests.machine import Machine
from model.config import BagelConfig
from model.step_cache_rules import StepCache


def main(arguments: list[str] | None = None) -> int:
    options = read_options("savings", arguments)
    if not has_fp8(options.device):
        write(options, "savings", [{"what": "not measured: this GPU has no products of 8-bit floats"}])
        return 0
    loaded = random_engine(BagelConfig.named("tiny" if options.is_tiny else "bagel-7b"), options.device, has_fp8_experts=True)
    rates = Machine(options.device, loaded.model.dtype).probe()
    lines: list[Line] = []
    for side, num_timesteps in ((16, 9),) if options.is_tiny else ((512, 50), (1024, 50)):
        for cache in (None, StepCache(2), StepCache(3)):
            line = measure_picture(loaded, side, num_timesteps, rates.matmul_gflops, cache)
            lines.append({**line, "step cache": "off" if cache is None else cache.interval})
            write(options, "savings", lines)
    for concurrency, context in ((1, 20),) if options.is_tiny else ((1, 30), (64, 2000)):
        lines.append(measure_decode(loaded, concurrency, context, rates.read_gbps))
    write(options, "savings", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
