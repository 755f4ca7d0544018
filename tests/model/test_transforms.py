"""From uploaded pictures to the pixels the model reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.config import BagelConfig, ImageTransform
from model.transforms import resize, resize_size, to_rgb, vae_and_vit

REAL = BagelConfig.named("bagel-7b")
SIDES = st.integers(1, 5000)


@given(SIDES, SIDES)
def test_a_size_is_a_multiple_of_the_stride_and_at_most_the_maximum(width: int, height: int) -> None:
    for transform in (REAL.vae_transform, REAL.vit_transform):
        size = resize_size(width, height, transform)
        assert all(side > 0 and side % transform.stride == 0 for side in size)
        assert max(size) <= transform.max_size


@given(SIDES, SIDES)
def test_a_resized_size_stays_as_it_is(width: int, height: int) -> None:
    size = resize_size(width, height, REAL.vae_transform)
    assert resize_size(*size, REAL.vae_transform) == size


def test_rounding_is_half_to_even() -> None:
    """40 / 16 = 2.5 rounds to 2, 56 / 16 = 3.5 to 4."""
    assert resize_size(40, 56, ImageTransform(64, 16, 16)) == (32, 64)


def test_the_area_rule_scales_by_the_ratio_itself() -> None:
    """1800 x 1200 exceeds the area: both sides shrink by 1806336 / 2160000, not by its root (spec 3.3 step 3)."""
    assert resize_size(1800, 1200, ImageTransform(1800, 100, 10)) == (1500, 1000)


def test_a_picture_that_fits_is_not_touched() -> None:
    image = Image.new("RGB", (64, 48))
    assert resize(image, ImageTransform(64, 16, 16)) is image


def test_transparency_is_composited_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    assert np.array(to_rgb(image)).tolist() == [[[255, 255, 255], [255, 0, 0]]]


def test_a_transparent_palette_entry_is_composited_on_white() -> None:
    image = Image.new("P", (1, 1), 0)
    image.putpalette([0, 255, 0] * 256)
    image.info["transparency"] = 0
    assert np.array(to_rgb(image)).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert to_rgb(Image.new(mode, (3, 2))).mode == "RGB"


def test_sixteen_bit_grey_keeps_its_high_bytes() -> None:
    """Pillow clips to 255 instead, as the reference does with it: scans and depth maps were all but white."""
    image = Image.fromarray(np.array([[0, 0x7FFF, 0x8000, 0xFFFF]], dtype=np.uint16))
    assert np.array(to_rgb(image)).tolist() == [[[0] * 3, [0x7F] * 3, [0x80] * 3, [0xFF] * 3]]


def test_a_transparent_level_of_sixteen_bit_grey_is_composited_on_white() -> None:
    image = Image.fromarray(np.array([[0x1234, 0x1235]], dtype=np.uint16))
    image.info["transparency"] = 0x1234
    assert np.array(to_rgb(image)).tolist() == [[[0xFF] * 3, [0x12] * 3]]


def test_the_vit_sees_the_picture_resized_twice() -> None:
    """400 x 300 becomes 688 x 512 for the VAE; the ViT's size follows from that, not from the upload."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    vae, vit = vae_and_vit(Image.fromarray(pixels), REAL)
    once = resize(Image.fromarray(pixels), REAL.vae_transform)
    assert np.array_equal(vae, np.array(once))
    assert np.array_equal(vit, np.array(resize(once, REAL.vit_transform)))
    assert vit.shape != (*resize_size(400, 300, REAL.vit_transform)[::-1], 3)
