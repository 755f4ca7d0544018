"""Guidance against the formulas of spec 6.2 and 8.4, written out in float64."""

from __future__ import annotations

import pytest
import torch

from kernels.guidance import guided_velocity
from model.guidance import BagelScales, bagel_mix, illume_mix
from model.guidance_rules import Renorm

GENERATOR = torch.Generator().manual_seed(0)
FULL, NO_TEXT, NO_IMAGE = (torch.randn(12, 64, generator=GENERATOR, dtype=torch.float64) for _ in range(3))


def by_the_book(a: float, b: float, renorm: Renorm, least: float) -> torch.Tensor:
    """Spec 6.2, line by line."""
    if a <= 1:
        return FULL
    g1 = NO_TEXT + a * (FULL - NO_TEXT)
    if renorm is Renorm.TEXT_CHANNEL:
        k: torch.Tensor = (FULL.norm(dim=-1, keepdim=True) / (g1.norm(dim=-1, keepdim=True) + 1e-8)).clamp(least, 1)
        g2 = g1 * k
        return g2 if b <= 1 else NO_IMAGE + b * (g2 - NO_IMAGE)
    g3 = g1 if b <= 1 else NO_IMAGE + b * (g1 - NO_IMAGE)
    dim = None if renorm is Renorm.GLOBAL else -1
    ratio: torch.Tensor = (FULL.norm(dim=dim, keepdim=True) / (g3.norm(dim=dim, keepdim=True) + 1e-8)).clamp(least, 1)
    return g3 * ratio


@pytest.mark.parametrize("renorm", list(Renorm))
@pytest.mark.parametrize("least", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.0, 2.0), (4.0, 1.0), (4.0, 2.0)])
def test_bagel_guidance(a: float, b: float, renorm: Renorm, least: float) -> None:
    no_text = NO_TEXT if a > 1 else None
    no_image = NO_IMAGE if a > 1 and b > 1 else None

    mix = bagel_mix(BagelScales(a, b, renorm, least), has_no_text=no_text is not None, has_no_image=no_image is not None)
    found = guided_velocity(mix, FULL, no_text, no_image)

    torch.testing.assert_close(found, by_the_book(a, b, renorm, least), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("g_txt", "g_img"), [(4.0, 1.5), (3.0, 3.0), (4.0, 1.0), (1.0, 2.0)])
def test_illume_guidance_without_the_branches_it_does_not_need(g_txt: float, g_img: float) -> None:
    expected = g_txt * (FULL - NO_TEXT) + g_img * (NO_TEXT - NO_IMAGE) + NO_IMAGE
    images_only = None if g_img == g_txt else NO_TEXT
    nothing = None if g_img == 1.0 else NO_IMAGE

    mix = illume_mix(g_txt, g_img, has_images_only=images_only is not None, has_nothing=nothing is not None)
    found = guided_velocity(mix, FULL, images_only, nothing)

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
