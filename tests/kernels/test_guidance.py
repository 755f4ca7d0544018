"""Guidance, renorm and Euler step in Triton against float64: images of every rule and size in one call."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.guidance import take_euler_steps, take_euler_steps_one_by_one
from kernels.guidance_triton import BLOCK_TOKENS, SQUARES_AT_A_TIME, take_euler_steps_with_triton
from kernels.mix import GuidedStep, Mix, RenormOver

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FIRST, SECOND = (4.0, -3.0), (2.0, -1.0)
MIXES = [
    Mix(first, second, renorm, renorm_min)
    for first, second, renorm, renorm_min in itertools.product([None, FIRST], [None, SECOND], RenormOver, [0.0, 0.8, 1.0])
]
mixes = st.sampled_from(MIXES)
sizes = st.sampled_from([1, 2, BLOCK_TOKENS - 1, BLOCK_TOKENS, BLOCK_TOKENS + 1, 3 * BLOCK_TOKENS + 5])


def laid_out(images: list[tuple[Mix, int]]) -> list[GuidedStep]:
    """Give each image the rows it needs, one after the other; images of one velocity or two have none for the rest."""
    steps, end = [], 0
    for mix, num_tokens in images:
        starts: list[int] = []
        for is_needed in (True, mix.first is not None, mix.second is not None):
            starts.append(end if is_needed else 0)
            end += num_tokens if is_needed else 0
        full, first, second = starts
        steps.append(GuidedStep(mix, num_tokens, full, first, second, dt=0.125))
    return steps


def draw(images: list[tuple[Mix, int]], channels: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, list[GuidedStep]]:
    """Draw latents and velocities; what no image needs is not a number."""
    steps, generator = laid_out(images), torch.Generator().manual_seed(len(images))
    x_t = torch.randn(sum(step.num_tokens for step in steps), channels, generator=generator)
    velocity = torch.randn(3 * len(x_t), channels, generator=generator).to(dtype)
    return x_t.to(DEVICE), velocity.to(DEVICE), steps


def assert_takes_the_steps(images: list[tuple[Mix, int]], channels: int, dtype: torch.dtype) -> None:
    """The sums are float32 whatever the velocities are: a few roundings of numbers below 32, and a norm of thousands of terms."""
    x_t, velocity, steps = draw(images, channels, dtype)
    expected = take_euler_steps_one_by_one(x_t.cpu().double(), velocity.cpu().double(), steps)
    found = take_euler_steps_with_triton(x_t, velocity, steps)
    torch.testing.assert_close(found.cpu().double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mix", MIXES[::5])
def test_one_image_equals_its_reference(mix: Mix, dtype: torch.dtype) -> None:
    assert_takes_the_steps([(mix, 70)], 64, dtype)


def test_a_norm_over_more_blocks_than_are_added_up_at_a_time_equals_its_reference() -> None:
    mix = Mix(FIRST, SECOND, RenormOver.IMAGE)
    assert_takes_the_steps([(mix, SQUARES_AT_A_TIME * BLOCK_TOKENS + 5), (mix, 40)], 16, torch.bfloat16)


@settings(max_examples=25)
@given(st.lists(st.tuples(mixes, sizes), min_size=1, max_size=5), st.sampled_from([4, 16, 24, 64]), st.sampled_from(DTYPES))
def test_images_of_any_rule_and_size_equal_their_reference_together(
    images: list[tuple[Mix, int]], channels: int, dtype: torch.dtype
) -> None:
    assert_takes_the_steps(images, channels, dtype)


def test_an_image_is_the_same_to_the_bit_whoever_stands_beside_it() -> None:
    mix = Mix(FIRST, SECOND, RenormOver.IMAGE)
    x_t, velocity, (step, *others) = draw([(mix, 45), (Mix(FIRST), 200), (mix, 33)], 64, torch.bfloat16)
    together = take_euler_steps_with_triton(x_t, velocity, [step, *others])
    alone = take_euler_steps_with_triton(x_t[:45].contiguous(), velocity, [step])
    assert torch.equal(together[:45], alone)


def test_a_velocity_that_is_not_needed_is_not_looked_at() -> None:
    x_t, velocity, (step,) = draw([(Mix(FIRST), 40)], 64, torch.float32)
    velocity[80:] = torch.nan
    for take in (take_euler_steps_with_triton, take_euler_steps):
        assert torch.isfinite(take(x_t, velocity, [replace(step, second_start=80)])).all()


def test_a_velocity_that_is_not_finite_is_not_hidden_by_the_renorm() -> None:
    for renorm in RenormOver:
        x_t, velocity, steps = draw([(Mix(FIRST, None, renorm), 40)], 64, torch.float32)
        velocity[3, 5] = torch.nan
        assert not torch.isfinite(take_euler_steps_with_triton(x_t, velocity, steps)).all()
