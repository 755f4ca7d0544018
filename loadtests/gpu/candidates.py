"""What might be faster than what is shipped: the same work done otherwise and compared with it, for the next change to begin from.

python -m loadtests.gpu.candidates --out DIR [--device cpu --tiny]

tiles      attention with more loads under way (Triton keeps one key tile fewer than its stages in flight where a page number is loaded
           first), cut otherwise, or with keys that stand together loaded in bulk: latents, and pages that are large enough
residual   the feed-forward's last product added to the residual stream as it is written, or in a launch of its own
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from kernels.attention_launch import Tiles, attend_with_tiles, shipped_tiles
from kernels.linear import linear
from kernels.tiles import BULK_DECODE, BULK_LONG
from loadtests.gpu.part import Line, Options, Report, is_lost, read_options
from loadtests.gpu.tensors import Call, random_call
from loadtests.gpu.timing import Work, timing
from loadtests.kernels.shapes import SHAPES, TINY_SHAPES, Shape

SHAPES_TO_TRY = ("64 decode rows over 2,000", "2 denoise rows of 4,098 over 2,000", "8 denoise rows of 1,026 over 300")
MORE_STAGES = 5
STAGES, TINY_STAGES = (3, MORE_STAGES, 7), (MORE_STAGES,)
LARGE_PAGE = 64
LARGE_PAGES = f"pages of {LARGE_PAGE}"
DOWN, TINY_DOWN = (3584, 18944), (64, 96)
"""Columns out and in of the feed-forward's last product."""
ROWS, TINY_ROWS = (1, 64, 1026, 4100), (3,)
SAME = 2.0**-6
"""How far two orders of the same sums may be apart in bfloat16, as a share of their length."""


def main(arguments: list[str] | None = None) -> int:
    options = read_options("candidates", arguments)
    report = Report(options, "candidates")
    shapes = TINY_SHAPES[-1:] if options.is_tiny else [shape for shape in SHAPES if shape.name in SHAPES_TO_TRY]
    with torch.inference_mode():
        for num_rows in TINY_ROWS if options.is_tiny else ROWS:
            report.add(f"residual, {num_rows} rows", partial(measure_residual, num_rows, options))
        for shape in shapes:
            report.add(f"tiles, {shape.name}", partial(measure_tiles, shape, options))
        for shape in shapes:
            if shape.rows[0].num_tokens == 1:
                report.add(f"tiles, {shape.name}, {LARGE_PAGES}", partial(measure_large_pages, shape, options))
    return int(report.has_failed)


def measure_tiles(shape: Shape, options: Options) -> Iterator[Line]:
    """Yield a line for each way to cut the programs of one call, what is shipped first."""
    call = random_call(shape, _dtype(options), options.device)
    shipped = shipped_tiles(options.device, shape.heads.head_dim)
    yield from _timed(shape.name, call, ways_to_cut(shipped, call, TINY_STAGES if options.is_tiny else STAGES), options)


def measure_large_pages(shape: Shape, options: Options) -> Iterator[Line]:
    """Yield a line for each way to read decode rows' pages that hold whole key tiles, key by key first."""
    call = random_call(shape, _dtype(options), options.device, page_size=LARGE_PAGE)
    shipped = shipped_tiles(options.device, shape.heads.head_dim)
    yield from _timed(f"{shape.name}, {LARGE_PAGES}", call, ways_in_large_pages(shipped), options)


def _timed(what: str, call: Call, ways: dict[str, Tiles], options: Options) -> Iterator[Line]:
    """Yield a line for each way, compared with the first, which is what is shipped; one that fails hides no other, unless the device is
    lost with it."""
    attend = partial(attend_with_tiles, *call.arguments)
    reference, shipped_us = attend(ways["as shipped"]), 0.0
    for name, tiles in ways.items():
        line: Line = {"what": what, "way": name}
        try:
            line["error"] = float((attend(tiles) - reference).float().norm() / reference.float().norm())
            line |= timing(partial(attend, tiles), options.device).columns
        except Exception as error:  # a way that does not fit the device is no candidate, and says why
            yield line | {"not measured": str(error).splitlines()[0][:80] if str(error) else type(error).__name__}
            if is_lost(error, options.device):
                raise
            continue
        shipped_us = shipped_us or float(line["us"])
        yield line | {"of shipped": float(line["us"]) / shipped_us}


def ways_to_cut(shipped: Tiles, call: Call, numbers_of_stages: tuple[int, ...]) -> dict[str, Tiles]:
    """Name ways to cut the programs that a call has, what is shipped first."""
    layout = call.plan.layout
    ways = {"as shipped": shipped}
    if layout.num_single_rows:
        decode = shipped.decode
        for stages in numbers_of_stages:
            ways[f"decode, {stages} stages"] = replace(shipped, decode=replace(decode, num_stages=stages))
        ways["decode, splits of 16 tiles"] = replace(shipped, decode=replace(decode, num_stages=MORE_STAGES, split_tiles=16))
    if layout.num_rows > layout.num_single_rows:
        long = shipped.long
        ways["long in bulk, 128 keys"] = replace(shipped, long=BULK_LONG)
        in_bulk = replace(BULK_LONG, keys=long.keys, num_stages=long.num_stages, split_tiles=long.split_tiles)
        ways[f"long in bulk, {long.keys} keys"] = replace(shipped, long=in_bulk)
        ways["long in bulk, 4 warps of 64 rows"] = replace(shipped, long=replace(in_bulk, rows=64, num_warps=4, programs=2))
        ways[f"long, {MORE_STAGES} stages"] = replace(shipped, long=replace(long, num_stages=MORE_STAGES))
    return ways


def ways_in_large_pages(shipped: Tiles) -> dict[str, Tiles]:
    """Name ways to read decode rows' pages that hold whole key tiles."""
    ways = {"as shipped": shipped}
    for stages in (BULK_DECODE.num_stages, MORE_STAGES):
        ways[f"decode in bulk, {stages} stages"] = replace(shipped, decode=replace(BULK_DECODE, num_stages=stages))
    return ways


def measure_residual(num_rows: int, options: Options) -> Iterator[Line]:
    """Yield a line for the product that is added to the stream by itself, and one for the product that is written onto it."""
    num_out, num_in = TINY_DOWN if options.is_tiny else DOWN
    generator = torch.Generator(options.device).manual_seed(0)

    def drawn(*size: int) -> torch.Tensor:
        return torch.randn(size, device=options.device, generator=generator).to(_dtype(options))

    gated, weight, stream = drawn(num_rows, num_in), drawn(num_out, num_in).div_(math.sqrt(num_in)), drawn(num_rows, num_out)
    ways: dict[str, Work] = {
        "in a launch of its own": lambda: linear(gated, weight).add_(stream),
        "as it is written": lambda: torch.addmm(stream, gated, weight.T),
    }
    expected, first_us = stream.float() + gated.float() @ weight.float().T, 0.0
    for name, work in ways.items():
        found = work()
        assert isinstance(found, torch.Tensor)
        error = float((found.float() - expected).norm() / expected.norm())
        line: Line = {"what": f"residual, {num_rows} rows", "way": name, "error": error, **timing(work, options.device).columns}
        first_us = first_us or float(line["us"])
        yield line | {"verdict": "ok" if error <= SAME else "WRONG", "of shipped": float(line["us"]) / first_us}


def _dtype(options: Options) -> torch.dtype:
    return torch.float32 if options.is_tiny else torch.bfloat16


if __name__ == "__main__":
    sys.exit(main())
