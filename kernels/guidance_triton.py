"""Guidance, renorm and Euler step of many images in Triton: one pass over the latents, two where a norm is over whole images.

A program takes a block of one image's tokens, all channels. Where the renorm is over the image, the first pass leaves the guided velocity
where the result will be and each block's squared norms beside it; the second adds those up, in the same order each time, and steps.
"""

# A Triton kernel has no Python types: what it takes are pointers and numbers of the device.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl

from kernels.mix import GuidedStep, RenormOver
from kernels.reference import NORM_EPS as EPS
from kernels.upload import upload_tensor

BLOCK_TOKENS = 32
SQUARES_AT_A_TIME = 64
GUIDE_WARPS = 8
"""With 4 warps ptxas gives the first kernel 56 registers on Blackwell and spills 13 times, although twice as many do no harm there."""

NUM_PLACES = 5
NUM_WEIGHTS = 6
WORDS_OF_STEP = NUM_PLACES + 1 + NUM_WEIGHTS
"""A step is a line of int32: five places (-1: not needed), its `RenormOver`, and the bits of six float32 weights."""

NORM_EPS = tl.constexpr(EPS)
IMAGE = tl.constexpr(RenormOver.IMAGE.value)
TOKEN = tl.constexpr(RenormOver.TOKEN.value)
TOKEN_BEFORE_SECOND = tl.constexpr(RenormOver.TOKEN_BEFORE_SECOND.value)
LINE = tl.constexpr(WORDS_OF_STEP)


def take_euler_steps_with_triton(x_t: torch.Tensor, velocity: torch.Tensor, steps: Sequence[GuidedStep]) -> torch.Tensor:
    """Same contract as `kernels.guidance.take_euler_steps`."""
    return take_euler_steps_of_table(x_t, velocity, steps, upload_tensor(torch.from_numpy(lines_of(steps)), x_t.device))


def take_euler_steps_of_table(x_t: torch.Tensor, velocity: torch.Tensor, steps: Sequence[GuidedStep], table: torch.Tensor) -> torch.Tensor:
    """Take Euler steps whose lines (`lines_of`) are on the device already: launches alone."""
    out = torch.empty_like(x_t)
    num_blocks = triton.cdiv(max(step.num_tokens for step in steps), BLOCK_TOKENS)
    squares = x_t.new_empty(len(steps), num_blocks, 2)
    channels = x_t.shape[1]
    block = triton.next_power_of_2(channels)
    grid = (num_blocks, len(steps))
    guide_kernel[grid](x_t, velocity, out, squares, table, channels, num_blocks, BLOCK_T=BLOCK_TOKENS, BLOCK_C=block, num_warps=GUIDE_WARPS)
    if any(step.mix.renorm is RenormOver.IMAGE for step in steps):
        renorm_kernel[grid](
            x_t, out, squares, table, channels, num_blocks,
            BLOCK_T=BLOCK_TOKENS, BLOCK_C=block, BLOCK_B=SQUARES_AT_A_TIME, num_warps=GUIDE_WARPS,
        )  # fmt: skip
    return out


def lines_of(steps: Sequence[GuidedStep]) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    """Return what the kernels read of the steps: int32 ``[len(steps), WORDS_OF_STEP]``."""
    places, weights, start = [], [], 0
    for step in steps:
        mix = step.mix
        first, second = (-1 if weight is None else at for weight, at in ((mix.first, step.first_start), (mix.second, step.second_start)))
        places.append([start, step.num_tokens, step.full_start, first, second, mix.renorm.value])
        weights.append([*(mix.first or (1.0, 0.0)), *(mix.second or (1.0, 0.0)), mix.renorm_min, step.dt])
        start += step.num_tokens
    return np.concatenate([np.array(places, dtype=np.int32), np.array(weights, dtype=np.float32).view(np.int32)], axis=1)


@triton.jit
def weight_at(line, index: tl.constexpr):
    return tl.load(line + index).to(tl.float32, bitcast=True)


@triton.jit
def velocity_from(velocity_ptr, start, channels, place, mask):
    """One branch's velocity in float32; zero where the branch is not needed."""
    return tl.load(velocity_ptr + start.to(tl.int64) * channels + place, mask=mask & (start >= 0), other=0.0).to(tl.float32)


@triton.jit
def ratio_of(unguided_square, guided_square, least):
    """|unguided| / |guided| between ``least`` and 1."""
    ratio = tl.sqrt(unguided_square) / (tl.sqrt(guided_square) + NORM_EPS)
    return tl.minimum(tl.maximum(ratio, least), 1.0)


# For whatever number of blocks the same code: nobody's next token waits for it to be compiled for a picture of another size.
@triton.jit(do_not_specialize=["num_blocks"])
def guide_kernel(x_ptr, velocity_ptr, out_ptr, squares_ptr, table, channels, num_blocks, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):
    block, image = tl.program_id(0), tl.program_id(1)
    line = table + image * LINE
    num_tokens = tl.load(line + 1)
    if block * BLOCK_T < num_tokens:
        t, c = block * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_C)
        mask = (t < num_tokens)[:, None] & (c < channels)[None, :]
        place = t.to(tl.int64)[:, None] * channels + c[None, :]
        renorm, least = tl.load(line + 5), weight_at(line, 10)
        full = velocity_from(velocity_ptr, tl.load(line + 2), channels, place, mask)
        guided = weight_at(line, 6) * full + weight_at(line, 7) * velocity_from(velocity_ptr, tl.load(line + 3), channels, place, mask)
        unguided_square = tl.sum(full * full, 1)
        if renorm == TOKEN_BEFORE_SECOND:
            guided *= ratio_of(unguided_square, tl.sum(guided * guided, 1), least)[:, None]
        guided = weight_at(line, 8) * guided + weight_at(line, 9) * velocity_from(velocity_ptr, tl.load(line + 4), channels, place, mask)
        guided_square = tl.sum(guided * guided, 1)
        if renorm == TOKEN:
            guided *= ratio_of(unguided_square, guided_square, least)[:, None]
        place += tl.load(line).to(tl.int64) * channels
        if renorm == IMAGE:
            squares = squares_ptr + (image * num_blocks + block) * 2
            tl.store(squares, tl.sum(unguided_square, 0))
            tl.store(squares + 1, tl.sum(guided_square, 0))
            tl.store(out_ptr + place, guided, mask=mask)
        else:
            x = tl.load(x_ptr + place, mask=mask, other=0.0)
            tl.store(out_ptr + place, x - guided * weight_at(line, 11), mask=mask)


@triton.jit(do_not_specialize=["num_blocks"])
def renorm_kernel(
    x_ptr, out_ptr, squares_ptr, table, channels, num_blocks, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_B: tl.constexpr
):
    """Finish the images whose renorm is over all their tokens: ``out`` holds their guided velocity."""
    block, image = tl.program_id(0), tl.program_id(1)
    line = table + image * LINE
    num_tokens = tl.load(line + 1)
    if (tl.load(line + 5) == IMAGE) & (block * BLOCK_T < num_tokens):
        b, num_there = tl.arange(0, BLOCK_B), tl.cdiv(num_tokens, BLOCK_T)
        unguided_squares, guided_squares = tl.zeros([BLOCK_B], tl.float32), tl.zeros([BLOCK_B], tl.float32)
        for start in range(0, num_there, BLOCK_B):
            squares, is_there = squares_ptr + (image * num_blocks + start + b) * 2, start + b < num_there
            unguided_squares += tl.load(squares, mask=is_there, other=0.0)
            guided_squares += tl.load(squares + 1, mask=is_there, other=0.0)
        ratio = ratio_of(tl.sum(unguided_squares, 0), tl.sum(guided_squares, 0), weight_at(line, 10))
        t, c = block * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_C)
        mask = (t < num_tokens)[:, None] & (c < channels)[None, :]
        place = (tl.load(line) + t).to(tl.int64)[:, None] * channels + c[None, :]
        guided = tl.load(out_ptr + place, mask=mask, other=0.0) * ratio
        x = tl.load(x_ptr + place, mask=mask, other=0.0)
        tl.store(out_ptr + place, x - guided * weight_at(line, 11), mask=mask)
