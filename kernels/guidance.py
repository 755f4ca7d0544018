"""Guidance, its renorm and the Euler step: from the velocities of an image's branches to its latents one step further.

Images of different rules and sizes are taken together; renorm never looks at another image's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels import reference
from kernels.mix import GuidedStep, Mix, RenormOver


def take_euler_steps(x_t: torch.Tensor, velocity: torch.Tensor, steps: Sequence[GuidedStep]) -> torch.Tensor:
    """Take one Euler step of every image: ``x <- x - v dt`` with the guided velocity v.

    Args:
        x_t: float32 ``[num_latents, channels]``, contiguous, the images of ``steps`` one after the other.
        velocity: ``[num_tokens, channels]``, contiguous, every branch of every image at its start; sums are float32 whatever its dtype.

    Returns:
        A new tensor like ``x_t``.
    """
    if x_t.is_cuda:
        from kernels.guidance_triton import take_euler_steps_with_triton  # a machine without CUDA need not have Triton

        return take_euler_steps_with_triton(x_t, velocity, steps)
    return take_euler_steps_one_by_one(x_t, velocity, steps)


def take_euler_steps_one_by_one(x_t: torch.Tensor, velocity: torch.Tensor, steps: Sequence[GuidedStep]) -> torch.Tensor:
    """Do the same image by image, on any device."""
    images = x_t.split([step.num_tokens for step in steps])
    return torch.cat([image - _velocity_of(step, velocity) * step.dt for image, step in zip(images, steps, strict=True)])


def _velocity_of(step: GuidedStep, velocity: torch.Tensor) -> torch.Tensor:
    def at(start: int) -> torch.Tensor:
        return velocity[start : start + step.num_tokens]

    first = None if step.mix.first is None else at(step.first_start)
    second = None if step.mix.second is None else at(step.second_start)
    return guided_velocity(step.mix, at(step.full_start), first, second)


def guided_velocity(mix: Mix, full: torch.Tensor, first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor:
    """Mix the velocities of one image, ``[num_tokens, channels]`` each, in float32 or wider."""
    wide = torch.promote_types(full.dtype, torch.float32)
    unguided = full.to(wide)
    inner = unguided if mix.first is None or first is None else mix.first[0] * unguided + mix.first[1] * first.to(wide)
    if mix.renorm is RenormOver.TOKEN_BEFORE_SECOND:
        inner = inner * reference.renorm_ratio(unguided, inner, mix.renorm_min, per_token=True)
    guided = inner if mix.second is None or second is None else mix.second[0] * inner + mix.second[1] * second.to(wide)
    if mix.renorm in (RenormOver.IMAGE, RenormOver.TOKEN):
        guided = guided * reference.renorm_ratio(unguided, guided, mix.renorm_min, per_token=mix.renorm is RenormOver.TOKEN)
    return guided
