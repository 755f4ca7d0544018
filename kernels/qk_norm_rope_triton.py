"""Query and key norm with rotary embedding in Triton: one program to a head of a token, queries and keys in one launch."""

# A Triton kernel has no Python types: what it takes are pointers and numbers of the device.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl


def qk_norm_rope_with_triton(
    q: torch.Tensor, k: torch.Tensor, q_weight: torch.Tensor, k_weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same contract as `kernels.qk_norm_rope.qk_norm_rope`; heads must be contiguous, ``cos`` and ``sin`` have equal strides."""
    q_out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    k_out = torch.empty(k.shape, dtype=k.dtype, device=k.device)
    num_tokens, num_heads, head_dim = q.shape
    if num_tokens:
        half = head_dim // 2
        qk_norm_rope_kernel[(num_tokens, num_heads + k.shape[1])](
            q, k, q_weight, k_weight, cos, sin, q_out, k_out,
            num_heads, q.stride(0), q.stride(1), k.stride(0), k.stride(1), q_out.stride(0), k_out.stride(0), cos.stride(0), eps,
            HALF=half, BLOCK=triton.next_power_of_2(half), num_warps=1,
        )  # fmt: skip
    return q_out, k_out


@triton.jit
def norm_rope_head(x_ptr, weight_ptr, cos_ptr, sin_ptr, out_ptr, eps, HALF: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    inside = i < HALF
    first = tl.load(x_ptr + i, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x_ptr + HALF + i, mask=inside, other=0.0).to(tl.float32)
    rstd = tl.rsqrt((tl.sum(first * first, 0) + tl.sum(second * second, 0)) / (2 * HALF) + eps)
    dtype = x_ptr.dtype.element_ty
    first = (first * rstd).to(dtype).to(tl.float32) * tl.load(weight_ptr + i, mask=inside, other=0.0).to(tl.float32)
    second = (second * rstd).to(dtype).to(tl.float32) * tl.load(weight_ptr + HALF + i, mask=inside, other=0.0).to(tl.float32)
    rotated_first = first * tl.load(cos_ptr + i, mask=inside).to(tl.float32) - second * tl.load(sin_ptr + i, mask=inside).to(tl.float32)
    cos_second = tl.load(cos_ptr + HALF + i, mask=inside).to(tl.float32)
    sin_second = tl.load(sin_ptr + HALF + i, mask=inside).to(tl.float32)
    tl.store(out_ptr + i, rotated_first.to(dtype), mask=inside)
    tl.store(out_ptr + HALF + i, (second * cos_second + first * sin_second).to(dtype), mask=inside)


@triton.jit
def qk_norm_rope_kernel(
    q_ptr, k_ptr, q_weight, k_weight, cos_ptr, sin_ptr, q_out, k_out,
    num_heads, stride_qt, stride_qh, stride_kt, stride_kh, stride_qot, stride_kot, stride_angle, eps,
    HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    cos_ptr += token * stride_angle
    sin_ptr += token * stride_angle
    if head < num_heads:
        out = q_out + token * stride_qot + head * 2 * HALF
        norm_rope_head(q_ptr + token * stride_qt + head * stride_qh, q_weight, cos_ptr, sin_ptr, out, eps, HALF, BLOCK)
    else:
        head -= num_heads
        out = k_out + token * stride_kot + head * 2 * HALF
        norm_rope_head(k_ptr + token * stride_kt + head * stride_kh, k_weight, cos_ptr, sin_ptr, out, eps, HALF, BLOCK)
