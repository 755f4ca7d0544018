"""Guidance: how the velocities of an image's branches become one (BAGEL spec 6.2; ILLUME-X eq. 3, spec 8.4).

The rules are sums with weights: here the weights, in `kernels.guidance` the sums. A branch whose weight is zero is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.mix import Mix, RenormOver
from model.guidance_rules import Renorm

RENORM = {Renorm.GLOBAL: RenormOver.IMAGE, Renorm.CHANNEL: RenormOver.TOKEN, Renorm.TEXT_CHANNEL: RenormOver.TOKEN_BEFORE_SECOND}


@dataclass(frozen=True, slots=True)
class BagelScales:
    """``text_scale`` a and ``image_scale`` b of spec 6.2; a scale of 1 or less is off, and b is off when a is."""

    text_scale: float
    image_scale: float
    renorm: Renorm
    renorm_min: float


def bagel_mix(scales: BagelScales, *, has_no_text: bool, has_no_image: bool) -> Mix:
    """Return BAGEL's nested rule: ``g = u + a (v - u)``, then ``w + b (g - w)``, where u is without text and w without pictures.

    ``has_…`` say which of the two were evaluated; without u the result is v itself.
    """
    if not has_no_text:
        return Mix()
    second = _towards(scales.image_scale) if has_no_image else None
    return Mix(_towards(scales.text_scale), second, RENORM[scales.renorm], scales.renorm_min)


def illume_mix(text_scale: float, image_scale: float, *, has_images_only: bool, has_nothing: bool) -> Mix:
    """Return eq. 3, ``g_txt (v_full - v_img) + g_img (v_img - v_0) + v_0``, with v_img first and v_0 second.

    ``has_…`` say which of the two were evaluated: v_img is not where g_img = g_txt, nor v_0 where g_img = 1.
    """
    if not has_images_only:
        return Mix(second=_towards(text_scale)) if has_nothing else Mix()
    if not has_nothing:
        return Mix(first=_towards(text_scale))
    return Mix(first=(text_scale, image_scale - text_scale), second=(1.0, 1.0 - image_scale))


def _towards(scale: float) -> tuple[float, float]:
    """Return the weights of ``other + scale (velocity - other)``."""
    return scale, 1.0 - scale
