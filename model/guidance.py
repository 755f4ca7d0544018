"""Guidance: how the velocities of an image's branches become one (BAGEL spec 6.2; ILLUME-X eq. 3, spec 8.4).

One image at a time: renorm never looks at another image's tokens. Branches that were not evaluated are None; the rules say which those
may be.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.guidance_rules import Renorm

NORM_EPS = 1e-8
"""Keeps the renorm ratio finite (BAGEL: modeling/bagel/bagel.py:_forward_flow)."""


@dataclass(frozen=True, slots=True)
class BagelScales:
    """``text_scale`` a and ``image_scale`` b of spec 6.2; a scale of 1 or less is off, and b is off when a is."""

    text_scale: float
    image_scale: float
    renorm: Renorm
    renorm_min: float


def bagel_velocity(full: torch.Tensor, no_text: torch.Tensor | None, no_image: torch.Tensor | None, scales: BagelScales) -> torch.Tensor:
    """Combine velocities by BAGEL's nested rule.

    Args:
        full: ``[num_tokens, channels]`` velocity on everything; the result when ``no_text`` is None.
        no_text: the same without the last text, or None where text guidance is off.
        no_image: the same without pictures, or None where image guidance is off.
        scales: the two scales and the renorm.

    Returns:
        ``[num_tokens, channels]`` in the dtype of ``full``.
    """
    if no_text is None:
        return full
    guided = no_text + scales.text_scale * (full - no_text)
    if scales.renorm is Renorm.TEXT_CHANNEL:
        guided = guided * _renorm_ratio(full, guided, Renorm.CHANNEL, scales.renorm_min)
        return guided if no_image is None else no_image + scales.image_scale * (guided - no_image)
    if no_image is not None:
        guided = no_image + scales.image_scale * (guided - no_image)
    return guided * _renorm_ratio(full, guided, scales.renorm, scales.renorm_min)


def _renorm_ratio(full: torch.Tensor, guided: torch.Tensor, renorm: Renorm, renorm_min: float) -> torch.Tensor:
    """Return ``|full| / |guided|``, between ``renorm_min`` and 1: one scalar, or ``[num_tokens, 1]`` for CHANNEL."""
    if renorm is Renorm.CHANNEL:
        wanted, found = full.norm(dim=-1, keepdim=True), guided.norm(dim=-1, keepdim=True)
    else:
        wanted, found = full.norm(), guided.norm()
    ratio: torch.Tensor = (wanted / (found + NORM_EPS)).clamp(min=renorm_min, max=1.0)
    return ratio


def illume_velocity(
    full: torch.Tensor, images_only: torch.Tensor | None, nothing: torch.Tensor | None, text_scale: float, image_scale: float
) -> torch.Tensor:
    """Combine velocities by eq. 3: ``g_txt (v_full - v_img) + g_img (v_img - v_0) + v_0``.

    Args:
        full: ``[num_tokens, channels]`` velocity on everything.
        images_only: v_img, or None when its coefficient ``g_img - g_txt`` is zero.
        nothing: v_0, or None when its coefficient ``1 - g_img`` is zero.
        text_scale: g_txt; image_scale: g_img.
    """
    if images_only is None and nothing is None:
        return full
    if images_only is None:
        assert nothing is not None
        return text_scale * (full - nothing) + nothing
    if nothing is None:
        return text_scale * (full - images_only) + images_only
    return text_scale * (full - images_only) + image_scale * (images_only - nothing) + nothing
