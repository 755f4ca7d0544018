"""How long the host takes to plan attention: the layout's arrays to tensors, and the work list of each kind of row.

    OMP_NUM_THREADS=1 python -m loadtests.kernels.host

On a GPU the list is built while the device does the first layer's projections; it must be shorter than they are.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

from kernels.attention_work import build_work
from kernels.plan import RowLayout, build_attention_plan
from kernels.tiles import Kind, tile_shape
from loadtests.kernels.__main__ import table
from loadtests.kernels.shapes import SHAPES, Heads, Shape, layout_of
from loadtests.kernels.static import H200, PAGE_SIZE

REPEATS, ROUNDS = 200, 25


def main() -> int:
    rows = [[shape.name, *(f"{us:.1f}" for us in plan_us(shape))] for shape in SHAPES]
    print("\n".join(table(["shape", "plan us", "work list us"], rows)))
    return 0


def plan_us(shape: Shape) -> tuple[float, float]:
    """Return the microseconds of the plan and of its work lists."""
    layout, heads = layout_of(shape, PAGE_SIZE), shape.heads
    plan = microseconds(lambda: build_attention_plan(layout, torch.device("cpu")))
    return plan, microseconds(lambda: list_work(layout, heads))


def list_work(layout: RowLayout, heads: Heads) -> None:
    """List the attention kernel's work on a step, as for an H200."""
    num_single = layout.num_single_rows
    for kind, rows in ((Kind.DECODE, range(num_single)), (Kind.LONG, range(num_single, layout.num_rows))):
        if rows:
            tile = tile_shape(H200.generation, kind, heads.head_dim)
            build_work(layout, rows, tile_queries=tile.rows // heads.group, tile_keys=tile.keys, split_tiles=tile.split_tiles)


def microseconds(work: Callable[[], object]) -> float:
    """Return the shortest mean of some repetitions: what the work takes when nothing else wants the processor."""
    means = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(REPEATS):
            work()
        means.append((time.perf_counter() - started) / REPEATS)
    return 1e6 * min(means)


if __name__ == "__main__":
    sys.exit(main())
