"""Are products of 8-bit floats right on this device, and does the library have them for every number of rows that a step may bring?

cuBLASLt has refused some (pytorch/ao#4582: scales by row, few rows, a long sum), so each shape is tried and judged by itself. What is
expected is the same product of the same rounded numbers in float32, by another of the library's ways: TF32 would hold them exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from kernels.fp8 import Fp8Rows
from kernels.linear import fp8_product
from kernels.quantize import quantize_rows
from loadtests.gpu.matrices import Matrix
from loadtests.gpu.part import Line, Options, first_line, is_lost

ROWS = (1, 2, 4, 64, 128, 256, 257, 1026)
TINY_ROWS = (1, 2, 5)
DTYPE = torch.bfloat16
BOUND = 1e-2
"""Of |found - expected| / |expected|: the result is rounded to bfloat16, and the device sums with fewer bits than float32 has."""

Product = Callable[[Fp8Rows, Fp8Rows, torch.dtype, torch.Tensor | None], torch.Tensor]


def product_lines(matrix: Matrix, options: Options, product: Product = fp8_product) -> Iterator[Line]:
    """Multiply few rows and many by one matrix; a shape that fails hides no other, unless the device is lost with it."""
    weight, bias = matrix.draw_in_fp8(options.device), matrix.draw_bias(DTYPE, options.device)
    generator = torch.Generator(options.device).manual_seed(1)
    for num_rows in TINY_ROWS if options.is_tiny else ROWS:
        rows = quantize_rows(torch.randn(num_rows, matrix.num_in, device=options.device, generator=generator).to(DTYPE))
        line: Line = {"what": f"{matrix.name} in 8-bit floats, rows: {num_rows}", "dtype": str(DTYPE)}
        try:
            error = error_of(product(rows, weight, DTYPE, bias), rows, weight, bias)
        except RuntimeError as error_raised:
            yield line | {"verdict": first_line(error_raised)}
            if is_lost(error_raised, options.device):
                raise
            continue
        yield line | {"error": error, "bound": BOUND, "verdict": "ok" if error <= BOUND else "WRONG"}


def error_of(found: torch.Tensor, rows: Fp8Rows, weight: Fp8Rows, bias: torch.Tensor | None) -> float:
    """Return |found - expected| / |expected|; not a number where ``found`` has any that is none."""
    expected = rows.values.float() @ weight.values.float().T * rows.scales[:, None] * weight.scales
    if bias is not None:
        expected += bias
    return float((found.float() - expected).norm() / expected.norm())
