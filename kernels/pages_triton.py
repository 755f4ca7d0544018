"""Page writes in Triton: one program copies one token's keys and values."""

# A Triton kernel has no Python types: what it takes are pointers and numbers of the device.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.fp8_triton import keep
from kernels.kv_pages import KvPages
from kernels.plan import AttentionPlan


def write_pages_with_triton(k: torch.Tensor, v: torch.Tensor, pages: KvPages, plan: AttentionPlan) -> None:
    """Same contract as `kernels.pages.write_pages`; pages of keys and of values have equal strides."""
    page_size, num_kv_heads, head_dim = pages.k.shape[1:]
    width = num_kv_heads * head_dim
    write_pages_kernel[(len(plan.write_tokens),)](
        k, v, pages.k, pages.v, plan.write_tokens, plan.write_slots, pages.scales.k, pages.scales.v,
        k.stride(0), k.stride(1), v.stride(0), v.stride(1), pages.k.stride(0),
        PAGE=page_size, HEAD_DIM=head_dim, WIDTH=width, BLOCK=triton.next_power_of_2(width), num_warps=4,
    )  # fmt: skip


# How many tokens are kept decides where the slots begin, behind the tokens in one piece of memory.
@triton.jit(do_not_specialize_on_alignment=["write_tokens", "write_slots"])
def write_pages_kernel(
    k_ptr, v_ptr, k_pages_ptr, v_pages_ptr, write_tokens, write_slots, k_scale, v_scale,
    stride_kt, stride_kh, stride_vt, stride_vh, stride_page,
    PAGE: tl.constexpr, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.load(write_tokens + tl.program_id(0)).to(tl.int64)
    slot = tl.load(write_slots + tl.program_id(0)).to(tl.int64)
    i = tl.arange(0, BLOCK)
    head = i // HEAD_DIM
    d = i % HEAD_DIM
    inside = i < WIDTH
    target = slot // PAGE * stride_page + slot % PAGE * WIDTH + i
    k_place = k_ptr + token * stride_kt + head * stride_kh + d
    v_place = v_ptr + token * stride_vt + head * stride_vh + d
    keep(tl.load(k_place, mask=inside), k_place, k_pages_ptr + target, k_scale, inside)
    keep(tl.load(v_place, mask=inside), v_place, v_pages_ptr + target, v_scale, inside)
