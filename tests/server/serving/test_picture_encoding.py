"""Pictures of an answer: what goes out."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from server.messages import Picture
from server.serving.asks import PictureFormat
from server.serving.picture_encoding import encode_picture


def test_a_picture_goes_out_as_png_without_loss() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    encoded = encode_picture(Picture(16, 32, pixels.tobytes()), PictureFormat.PNG)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded))), pixels)


@pytest.mark.parametrize("output_format", list(PictureFormat))
def test_a_picture_goes_out_in_the_format_asked_for(output_format: PictureFormat) -> None:
    encoded = encode_picture(Picture(16, 32, bytes(16 * 32 * 3)), output_format)
    image = Image.open(io.BytesIO(encoded))
    assert image.format == output_format.name and image.size == (32, 16)


@pytest.mark.parametrize("output_format", [PictureFormat.WEBP, PictureFormat.JPEG])
def test_a_lower_quality_makes_a_smaller_file(output_format: PictureFormat) -> None:
    picture = Picture(64, 64, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8).tobytes())
    assert len(encode_picture(picture, output_format, 10)) < len(encode_picture(picture, output_format, 95)) / 2
