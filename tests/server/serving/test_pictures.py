"""Pictures of an answer: what goes out."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from server.messages import Picture
from server.serving.asks import PictureFormat
from server.serving.pictures import data_uri, encode_picture


def test_a_picture_goes_out_as_png_without_loss() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    url = data_uri(encode_picture(Picture(16, 32, pixels.tobytes()), PictureFormat.PNG), PictureFormat.PNG)
    prefix, _, payload = url.partition(",")
    assert prefix == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(payload)))), pixels)


@pytest.mark.parametrize("output_format", list(PictureFormat))
def test_a_picture_goes_out_in_the_format_asked_for(output_format: PictureFormat) -> None:
    encoded = encode_picture(Picture(16, 32, bytes(16 * 32 * 3)), output_format)
    image = Image.open(io.BytesIO(encoded))
    assert image.format == output_format.name and image.size == (32, 16)
