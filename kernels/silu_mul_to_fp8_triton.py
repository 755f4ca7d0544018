"""SwiGLU's elementwise half to 8-bit floats in Triton: one program to a row, read twice, the second time from the cache."""

# A Triton kernel has no Python types: what it takes are pointers and numbers of the device.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.fp8 import Fp8Rows
from kernels.fp8_triton import BLOCK, QUANTIZE_WARPS, empty_rows, larger, scale_of, to_fp8


def silu_mul_to_fp8_with_triton(gate_up: torch.Tensor) -> Fp8Rows:
    """Same contract as `kernels.silu_mul_to_fp8.silu_mul_to_fp8`; the numbers of a row stand together."""
    num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    rows = empty_rows(num_rows, width, gate_up.device)
    if num_rows:
        silu_mul_to_fp8_kernel[(num_rows,)](
            gate_up, rows.values, rows.scales, width, gate_up.stride(0), BLOCK=BLOCK, num_warps=QUANTIZE_WARPS
        )  # fmt: skip
    return rows


@triton.jit
def gated(gate_up_ptr, k, width):
    gate = tl.load(gate_up_ptr + k, mask=k < width, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + width + k, mask=k < width, other=0.0).to(tl.float32)
    return (gate * tl.sigmoid(gate) * up).to(gate_up_ptr.dtype.element_ty).to(tl.float32)


@triton.jit
def silu_mul_to_fp8_kernel(gate_up_ptr, values_ptr, scales_ptr, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    gate_up_ptr += row * stride
    largest = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        largest = larger(largest, gated(gate_up_ptr, start + tl.arange(0, BLOCK), width))
    scale = scale_of(largest)
    tl.store(scales_ptr + row, scale)
    for start in range(0, width, BLOCK):
        k = start + tl.arange(0, BLOCK)
        tl.store(values_ptr + row * width + k, to_fp8(gated(gate_up_ptr, k, width), scale), mask=k < width)
