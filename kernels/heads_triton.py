"""Query and key norm, rotation and page writes in one Triton launch: a program takes a few heads of one token."""

# A Triton kernel has no Python types: what it takes are pointers and numbers of the device.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.fp8_triton import keep
from kernels.head_norms import Angles, ExpertHeads
from kernels.kv_pages import KvPages
from kernels.plan import AttentionPlan

HEADS_OF_PROGRAM = 8
ROTATE_WARPS = 2
"""So that a thread loads 16 bytes of a head of 128 at once."""


def rotate_and_keep_with_triton(qkv: torch.Tensor, experts: ExpertHeads, angles: Angles, pages: KvPages, plan: AttentionPlan) -> None:
    """Same contract as `kernels.heads.rotate_and_keep`."""
    num_tokens, num_heads, head_dim = qkv.shape
    if num_tokens == 0:
        return
    num_kv_heads, half = pages.num_kv_heads, head_dim // 2
    und, gen = experts.und, experts.gen
    rotate_and_keep_kernel[(num_tokens, triton.cdiv(num_heads, HEADS_OF_PROGRAM))](
        qkv, und.q_norm, und.k_norm, gen.q_norm, gen.k_norm, *angles, pages.k, pages.v, plan.token_slots,
        experts.num_und, angles[0].stride(0), pages.k.stride(0), experts.eps, pages.scales.k, pages.scales.v,
        NUM_HEADS=num_heads, NUM_KV_HEADS=num_kv_heads, PAGE=pages.page_size, HALF=half, BLOCK=triton.next_power_of_2(half),
        HEADS=HEADS_OF_PROGRAM, UND_WIDE=und.rotates_in_float32, GEN_WIDE=gen.rotates_in_float32, num_warps=ROTATE_WARPS,
    )  # fmt: skip


@triton.jit
def weights_of(und_ptr, gen_ptr, i, inside, is_gen):
    """Load the norm weights of the token's own expert, float32 ``[1, BLOCK]``."""
    und = tl.load(und_ptr + i, mask=inside & (is_gen == 0), other=0.0).to(tl.float32)
    return (und + tl.load(gen_ptr + i, mask=inside & is_gen, other=0.0).to(tl.float32))[None, :]


# The number of understanding tokens changes from step to step: no kernel of its own for 1, or for 16.
@triton.jit(do_not_specialize=["num_und"])
def rotate_and_keep_kernel(
    qkv_ptr, und_q, und_k, gen_q, gen_k, cos_ptr, sin_ptr, k_pages_ptr, v_pages_ptr, token_slots,
    num_und, stride_angle, stride_page, eps, k_scale, v_scale,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, PAGE: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
    HEADS: tl.constexpr, UND_WIDE: tl.constexpr, GEN_WIDE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    i = tl.arange(0, BLOCK)
    inside = i < HALF
    here = (head < NUM_HEADS)[:, None] & inside[None, :]
    NUM_Q: tl.constexpr = NUM_HEADS - 2 * NUM_KV_HEADS
    is_gen = token >= num_und
    dtype = qkv_ptr.dtype.element_ty

    place = qkv_ptr + (token * NUM_HEADS + head)[:, None] * (2 * HALF) + i[None, :]
    first_raw = tl.load(place, mask=here, other=0.0)
    second_raw = tl.load(place + HALF, mask=here, other=0.0)
    first = first_raw.to(tl.float32)
    second = second_raw.to(tl.float32)
    rstd = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / (2 * HALF) + eps)[:, None]
    first = first * rstd
    second = second * rstd
    # The understanding expert rounds between norm and weight, as the reference does; the other one is float32 to the end.
    is_wide = tl.where(is_gen, GEN_WIDE, UND_WIDE)
    first = tl.where(is_wide, first, first.to(dtype).to(tl.float32))
    second = tl.where(is_wide, second, second.to(dtype).to(tl.float32))
    is_q = (head < NUM_Q)[:, None]
    first *= tl.where(is_q, weights_of(und_q, gen_q, i, inside, is_gen), weights_of(und_k, gen_k, i, inside, is_gen))
    i_second = HALF + i
    second *= tl.where(is_q, weights_of(und_q, gen_q, i_second, inside, is_gen), weights_of(und_k, gen_k, i_second, inside, is_gen))
    angle = token * stride_angle + i
    cos_first = tl.load(cos_ptr + angle, mask=inside, other=0.0).to(tl.float32)[None, :]
    sin_first = tl.load(sin_ptr + angle, mask=inside, other=0.0).to(tl.float32)[None, :]
    cos_second = tl.load(cos_ptr + angle + HALF, mask=inside, other=0.0).to(tl.float32)[None, :]
    sin_second = tl.load(sin_ptr + angle + HALF, mask=inside, other=0.0).to(tl.float32)[None, :]
    rotated_first = (first * cos_first - second * sin_first).to(dtype)
    rotated_second = (second * cos_second + first * sin_second).to(dtype)
    is_rotated = (head < NUM_Q + NUM_KV_HEADS)[:, None]
    tl.store(place, rotated_first, mask=here & is_rotated)
    tl.store(place + HALF, rotated_second, mask=here & is_rotated)

    slot = tl.load(token_slots + token)
    if slot >= 0:
        row = slot // PAGE * stride_page + slot % PAGE * (NUM_KV_HEADS * 2 * HALF)
        is_k = here & is_rotated & (head >= NUM_Q)[:, None]
        is_v = here & (head >= NUM_Q + NUM_KV_HEADS)[:, None]
        k_place = k_pages_ptr + row + (head - NUM_Q)[:, None] * (2 * HALF) + i[None, :]
        v_place = v_pages_ptr + row + (head - NUM_Q - NUM_KV_HEADS)[:, None] * (2 * HALF) + i[None, :]
        keep(rotated_first, place, k_place, k_scale, is_k)
        keep(rotated_second, place + HALF, k_place + HALF, k_scale, is_k)
        keep(first_raw, place, v_place, v_scale, is_v)
        keep(second_raw, place + HALF, v_place + HALF, v_scale, is_v)
