"""Compiles every shipped kernel for every generation of GPUs and prints one JSON line for each; stops with 1 where one is unsound.

    TRITON_INTERPRET=0 python -m loadtests.kernels.ahead_of_time [--generation 90 ...] [--brief] [--spill]

Which Triton does it is decided by the search path: `PYTHONPATH=DIR` with another version in DIR. ``--spill`` compiles one more tile,
which is known to spill, to see the check fail.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from kernels.tiles import Generation, Kind, TileShape
from loadtests.kernels.compiled import KernelSpec, compile_spec, faults
from loadtests.kernels.shipped import attention_spec, shipped

TOO_LARGE = TileShape(rows=128, keys=64, num_warps=4, num_stages=2, split_tiles=8, programs=1)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.kernels.ahead_of_time")
    parser.add_argument("--spill", action="store_true", help="compile a tile that spills, and nothing else")
    parser.add_argument(
        "--generation",
        type=lambda number: Generation(int(number)),
        nargs="+",
        default=list(Generation),
        help="by compute capability; all if not given",
    )
    parser.add_argument("--brief", action="store_true", help="look into the code of no kernel that has neither a stack nor products")
    options = parser.parse_args(arguments)
    complaints = []
    for generation, spec in _planted() if options.spill else _shipped(options.generation):
        compiled = compile_spec(spec, generation.value, is_brief=options.brief)
        print(json.dumps(asdict(compiled)), flush=True)
        complaints += faults(compiled, spec.matrix, copies_in_bulk=spec.copies_in_bulk)
    print("\n".join(complaints), file=sys.stderr)
    return 1 if complaints else 0


def _shipped(generations: Iterable[Generation]) -> Iterator[tuple[Generation, KernelSpec]]:
    for generation in generations:
        for spec in shipped(generation):
            yield generation, spec


def _planted() -> Iterator[tuple[Generation, KernelSpec]]:
    yield Generation.HOPPER, attention_spec(Generation.HOPPER, TOO_LARGE, Kind.LONG, 128, "bf16")


if __name__ == "__main__":
    sys.exit(main())
