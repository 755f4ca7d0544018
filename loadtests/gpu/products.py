"""How fast on this device are the matrix products of a step, which are four fifths of it, beside the ceilings measured in this very run?

    python -m loadtests.gpu.products --out DIR [--device cpu --tiny]

Each matrix by few rows and many, in the model's format and in 8-bit floats. A product's floor is what its operations take at the rate of a
large product, twice that for 8-bit floats, or its bytes at the bandwidth of a large read, whichever is longer. Weights of several layers
take turns, as in a step: one layer's would stay in the device's cache.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import torch

from kernels.fp8 import FP8
from kernels.linear import fp8_product, linear
from kernels.quantize import quantize_rows
from loadtests.gpu.ceilings import rate_lines
from loadtests.gpu.matrices import Matrix, matrices_of
from loadtests.gpu.part import Line, Options, Report, first_line, has_fp8, is_lost, read_options
from loadtests.gpu.roofline import FP8_SPEEDUP
from loadtests.gpu.timing import CALLS, Work, timing
from loadtests.machine import Machine, Rates
from model.config import BagelConfig

ROWS = (1, 2, 4, 16, 64, 128, 1024, 2048, 4096, 8192)
TINY_ROWS = (1, 4)
CACHE_BYTES = 256 << 20
"""More than the last-level cache of any card so far: weights that take turns are as many as fill this."""


def main(arguments: list[str] | None = None) -> int:
    options = read_options("products", arguments)
    dtype = torch.bfloat16 if options.device.type == "cuda" else torch.float32
    rates = Machine(options.device, dtype).probe()
    report = Report(options, "products")
    with torch.inference_mode():
        report.add("ceilings", partial(rate_lines, rates))
        for matrix in matrices_of(BagelConfig.named("tiny" if options.is_tiny else "bagel-7b")):
            plain, fp8 = partial(plain_product, matrix, dtype, options.device), partial(fp8_product_of, matrix, options.device)
            report.add(matrix.name, partial(measure, plain, rates, options))
            if matrix.is_of_expert and has_fp8(options.device):
                report.add(f"{matrix.name}, 8-bit floats", partial(measure, fp8, rates, options))
    return int(report.has_failed)


WorkOf = Callable[[int], Work]
"""Returns the product of so many rows by the matrix, whose weights are there already."""


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix in some format.

    Attributes:
        itemsize, out_itemsize: bytes of a number that is multiplied, and of one that comes out.
        speedup: of this format's products over the large one that the ceiling is measured with.
    """

    kernel: str
    matrix: Matrix
    itemsize: int
    out_itemsize: int
    speedup: float
    work_of: WorkOf

    def num_flops(self, num_rows: int) -> float:
        """Count the operations, a multiply-add as two."""
        return 2.0 * num_rows * self.matrix.num_out * self.matrix.num_in

    def num_bytes(self, num_rows: int) -> float:
        """Count the bytes that are read and written once each."""
        read = (num_rows + self.matrix.num_out) * self.matrix.num_in * self.itemsize
        return float(read + num_rows * self.matrix.num_out * self.out_itemsize)

    def floor_s(self, num_rows: int, rates: Rates) -> float:
        """Return the seconds below which the device cannot do it."""
        flops_s = self.num_flops(num_rows) / (self.speedup * rates.matmul_gflops * 1e9)
        return max(flops_s, self.num_bytes(num_rows) / (rates.read_gbps * 1e9))


def plain_product(matrix: Matrix, dtype: torch.dtype, device: torch.device) -> Product:
    """Return the product in the model's format."""
    weights = [matrix.draw(dtype, device) for _ in range(num_taking_turns(matrix, dtype.itemsize))]
    bias = matrix.draw_bias(dtype, device)

    def work_of(num_rows: int) -> Work:
        x, turns = torch.randn(num_rows, matrix.num_in, device=device).to(dtype), cycle(weights)
        return lambda: linear(x, next(turns), bias)

    return Product(str(dtype).removeprefix("torch."), matrix, dtype.itemsize, dtype.itemsize, 1.0, work_of)


def fp8_product_of(matrix: Matrix, device: torch.device) -> Product:
    """Return the product in 8-bit floats, of rows that are rounded already: a norm or a gate does that by the way."""
    weights = [matrix.draw_in_fp8(device) for _ in range(num_taking_turns(matrix, FP8.itemsize))]
    bias = matrix.draw_bias(torch.bfloat16, device)

    def work_of(num_rows: int) -> Work:
        rows, turns = quantize_rows(torch.randn(num_rows, matrix.num_in, device=device).bfloat16()), cycle(weights)
        return lambda: fp8_product(rows, next(turns), torch.bfloat16, bias)

    return Product("8-bit floats", matrix, FP8.itemsize, torch.bfloat16.itemsize, FP8_SPEEDUP, work_of)


def num_taking_turns(matrix: Matrix, itemsize: int) -> int:
    """Return how many weights there must be, at most one for each call of a graph."""
    return min(CALLS, math.ceil(CACHE_BYTES / (matrix.num_out * matrix.num_in * itemsize)))


def measure(draw: Callable[[], Product], rates: Rates, options: Options) -> Iterator[Line]:
    """Draw the weights, and yield a line for each number of rows; one that fails hides no other, unless the device is lost with it."""
    product = draw()
    for num_rows in TINY_ROWS if options.is_tiny else ROWS:
        line: Line = {"matrix": product.matrix.name, "rows": num_rows, "kernel": product.kernel}
        try:
            work = product.work_of(num_rows)
            work()
            timed = timing(work, options.device)
        except RuntimeError as error:
            yield line | {"raised": first_line(error)}
            if is_lost(error, options.device):
                raise
            continue
        flops, num_bytes, floor_s = product.num_flops(num_rows), product.num_bytes(num_rows), product.floor_s(num_rows, rates)
        line |= timed.columns | {"TFLOP/s": flops / timed.seconds / 1e12, "GB/s": num_bytes / timed.seconds / 1e9}
        yield line | {"floor us": 1e6 * floor_s, "of floor": timed.seconds / floor_s, "FLOP/B": flops / num_bytes}


if __name__ == "__main__":
    sys.exit(main())
