"""How fast on this device are the kernels that only read and write, beside the time their bytes take at the bandwidth of a card?

python -m loadtests.gpu.streams --out DIR [--device cpu --tiny]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from kernels.fp8_triton import quantize_rows_with_triton
from kernels.guidance_triton import lines_of, take_euler_steps_of_table
from kernels.mix import GuidedStep, Mix, RenormOver
from kernels.norm_to_fp8_triton import add_rms_norm_to_fp8_with_triton, rms_norm_to_fp8_with_triton
from kernels.rms_norm_triton import add_rms_norm_with_triton, rms_norm_with_triton
from kernels.sampling import SamplingRow, draw_by_sorting, settings_table
from kernels.sampling_triton import draw_with_triton
from kernels.silu_mul_to_fp8_triton import silu_mul_to_fp8_with_triton
from kernels.silu_mul_triton import silu_mul_with_triton
from loadtests.gpu.part import Line, Options, Report, has_fp8, read_options
from loadtests.gpu.timing import Work, timing, timing_with_host
from loadtests.kernels.memory_calls import HIDDEN, INTERMEDIATE, NUM_LATENTS, NUM_PICTURES, TOKENS, memory_calls
from loadtests.kernels.static import H200
from model.config import BagelConfig

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the kernels are given: widths of rows, and a vocabulary; pictures and their latents."""

    hidden: int
    wide: int
    vocab: int
    num_pictures: int
    num_latents: int


FULL = Sizes(HIDDEN, INTERMEDIATE, BagelConfig.named("bagel-7b").llm.vocab_size, NUM_PICTURES, NUM_LATENTS)
TINY = Sizes(64, 160, 320, 2, 16)


def main(arguments: list[str] | None = None) -> int:
    options = read_options("streams", arguments)
    sizes = TINY if options.is_tiny else FULL
    report = Report(options, "streams")
    with torch.inference_mode():
        for what, num in TOKENS.items():
            report.add(what, partial(measure_rows, what, min(num, 2) if options.is_tiny else num, sizes, options))
        report.add("guidance", partial(measure_guidance, sizes, options))
        report.add("draws", partial(measure_draws, sizes, options))
    return int(report.has_failed)


def measure_rows(what: str, num_tokens: int, sizes: Sizes, options: Options) -> Iterator[Line]:
    """Yield a line for each kernel that takes a token at a time."""
    bounds = {(call.kernel, call.what): (call.bytes_read + call.bytes_written) / H200.bandwidth_tbps / 1e6 for call in memory_calls(H200)}
    for kernel, work in row_works(num_tokens, sizes, options.device).items():
        yield {"what": what, "kernel": kernel, **_timed(work, options), "predicted us": bounds[kernel, what]}


def row_works(num_tokens: int, sizes: Sizes, device: torch.device) -> dict[str, Work]:
    """Return each kernel's work by name, on bfloat16 rows."""

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).bfloat16()

    x, residual, weight = draw(num_tokens, sizes.hidden), draw(num_tokens, sizes.hidden), draw(sizes.hidden)
    gate_up, wide = draw(num_tokens, 2 * sizes.wide), draw(num_tokens, sizes.wide)
    works: dict[str, Work] = {
        "rms_norm": lambda: rms_norm_with_triton(x, weight, EPS),
        "add_rms_norm": lambda: add_rms_norm_with_triton(x, residual, weight, EPS),
        "silu_mul": lambda: silu_mul_with_triton(gate_up),
    }
    if has_fp8(device):
        works |= {
            "quantize_rows": lambda: quantize_rows_with_triton(wide),
            "rms_norm_to_fp8": lambda: rms_norm_to_fp8_with_triton(x, weight, EPS),
            "add_rms_norm_to_fp8": lambda: add_rms_norm_to_fp8_with_triton(x, residual, weight, EPS),
            "silu_mul_to_fp8": lambda: silu_mul_to_fp8_with_triton(gate_up),
        }
    return works


def measure_guidance(sizes: Sizes, options: Options) -> Line:
    """Time both launches of an Euler step of pictures whose renorm is over the whole of each."""
    num, channels = sizes.num_latents, 64
    mix = Mix((4.0, -3.0), (2.0, -1.0), RenormOver.IMAGE)
    starts = [3 * num * k for k in range(sizes.num_pictures)]
    steps = [GuidedStep(mix, num, start, start + num, start + 2 * num, dt=0.02) for start in starts]
    x_t = torch.randn(num * sizes.num_pictures, channels, device=options.device)
    velocity = torch.randn(3 * len(x_t), channels, device=options.device).bfloat16()
    table = torch.from_numpy(lines_of(steps)).to(options.device)
    timed = _timed(lambda: take_euler_steps_of_table(x_t, velocity, steps, table), options)
    what = f"{sizes.num_pictures} pictures of {num} latents"
    return {"what": what, "kernel": "guide + renorm", **timed, "predicted us": _bound_us("guide", "renorm")}


def measure_draws(sizes: Sizes, options: Options) -> Iterator[Line]:
    """Time the drawing of a token for every row, without sorting and with, by id and in falling order; sorting uploads its settings."""
    num_rows = 2 if options.is_tiny else TOKENS["64 decoded tokens"]
    logits = 3.0 * torch.randn(num_rows, sizes.vocab, device=options.device).bfloat16()
    plain, launches = SamplingRow(temperature=0.8), ("draw: max", "draw: mass", "draw: choose")
    for name, row, launched in (
        ("plain", plain, launches),
        ("top-k 50, top-p 0.9", plain._replace(top_k=50, top_p=0.9), (*launches, "draw: gather")),
    ):
        rows = [row] * num_rows
        table, what = settings_table(rows).to(options.device), f"{num_rows} rows of {sizes.vocab:,} logits, {name}"
        timed = _timed(lambda table=table: draw_with_triton(logits, table), options)  # type: ignore[misc]
        yield {"what": what, "kernel": "draw", **timed, "predicted us": _bound_us(*launched)}
        draw_by_sorting(logits, rows)
        sorting = timing_with_host(lambda rows=rows: draw_by_sorting(logits, rows), options.device)  # type: ignore[misc]
        yield {"what": what, "kernel": "sorting", **sorting.columns}


def _bound_us(*prefixes: str) -> float:
    """Add up the bounds of the launches whose names begin so."""
    calls = [call for call in memory_calls(H200) if call.kernel.startswith(prefixes)]
    return sum(call.bytes_read + call.bytes_written for call in calls) / H200.bandwidth_tbps / 1e6


def _timed(work: Work, options: Options) -> Line:
    work()
    return timing(work, options.device).columns


if __name__ == "__main__":
    sys.exit(main())
