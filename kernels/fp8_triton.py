"""Rows to 8-bit floats in Triton: one program to a row, which is read twice, the second time from the cache."""

# A Triton kernel has no Python types: what it takes are pointers and numbers of the device.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.fp8 import FP8, Fp8Rows
from kernels.fp8 import MAX_FP8 as LARGEST
from kernels.fp8 import MIN_SCALE as LEAST

BLOCK = 4096
QUANTIZE_WARPS = 8

MAX_FP8 = tl.constexpr(LARGEST)
MIN_SCALE = tl.constexpr(LEAST)
NOT_A_NUMBER = tl.constexpr(0x7F)
"""As an e4m3 byte."""


def quantize_rows_with_triton(x: torch.Tensor) -> Fp8Rows:
    """Same contract as `kernels.quantize.quantize_rows`; the numbers of a row stand together."""
    rows = empty_rows(len(x), x.shape[1], x.device)
    if len(x):
        quantize_rows_kernel[(len(x),)](x, rows.values, rows.scales, x.shape[1], x.stride(0), BLOCK=BLOCK, num_warps=QUANTIZE_WARPS)
    return rows


def empty_rows(num_rows: int, width: int, device: torch.device) -> Fp8Rows:
    """Return room for rows."""
    return Fp8Rows(torch.empty((num_rows, width), dtype=FP8, device=device), torch.empty(num_rows, dtype=torch.float32, device=device))


@triton.jit
def larger(largest, x):
    """Return the larger magnitudes so far; not a number where one was none."""
    return tl.maximum(largest, tl.abs(x), propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def scale_of(largest):
    """Return the scale of a row from its magnitudes, or the largest of each lane of it."""
    # The largest of numbers of which one is not a number is not a number: a sum says so, whatever the maximum does.
    has_nan = tl.sum(tl.where(largest != largest, 1, 0), 0) > 0
    scale = tl.maximum(tl.max(largest, 0), MIN_SCALE) / MAX_FP8
    return tl.where(has_nan, float("nan"), scale)


@triton.jit
def to_fp8(x, scale):
    return tl.minimum(tl.maximum(x / scale, -MAX_FP8), MAX_FP8).to(tl.float8e4nv)


@triton.jit
def keep(x, place, page_place, scale, mask):
    """Store keys or values, which are at ``place``, into pages; as 8-bit floats also what those stand for where they were."""
    if page_place.dtype.element_ty == tl.float8e4nv:
        wide = x.to(tl.float32)
        # What is not finite is cut off to no number.
        bits = tl.where(wide - wide == 0.0, to_fp8(wide, scale).to(tl.uint8, bitcast=True), NOT_A_NUMBER)
        rounded = bits.to(tl.uint8).to(tl.float8e4nv, bitcast=True)
        tl.store(page_place, rounded, mask=mask)
        tl.store(place, (rounded.to(tl.float32) * scale).to(x.dtype), mask=mask)
    else:
        tl.store(page_place, x, mask=mask)


@triton.jit
def quantize_rows_kernel(x_ptr, values_ptr, scales_ptr, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    largest = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        k = start + tl.arange(0, BLOCK)
        largest = larger(largest, tl.load(x_ptr + row * stride + k, mask=k < width, other=0.0).to(tl.float32))
    scale = scale_of(largest)
    tl.store(scales_ptr + row, scale)
    for start in range(0, width, BLOCK):
        k = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * stride + k, mask=k < width, other=0.0).to(tl.float32)
        tl.store(values_ptr + row * width + k, to_fp8(x, scale), mask=k < width)
