"""SwiGLU's elementwise half in Triton."""

# A Triton kernel has no Python types: what it takes are pointers and numbers of the device.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024


def silu_mul_with_triton(gate_up: torch.Tensor) -> torch.Tensor:
    """Same contract as `kernels.silu_mul.silu_mul`; ``gate_up`` must have contiguous rows."""
    num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((num_rows, width), dtype=gate_up.dtype, device=gate_up.device)
    if num_rows:
        silu_mul_kernel[(num_rows, triton.cdiv(width, BLOCK))](gate_up, out, width, gate_up.stride(0), BLOCK=BLOCK, num_warps=4)
    return out


@triton.jit
def silu_mul_kernel(gate_up_ptr, out_ptr, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up_ptr + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * stride + width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + column, (gate * tl.sigmoid(gate) * up).to(out_ptr.dtype.element_ty), mask=inside)
