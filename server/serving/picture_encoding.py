"""Pictures of an answer: the engine's pixels to an encoded file."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from server.messages import Picture
from server.serving.asks import PictureFormat

JPEG_QUALITY = 92
WEBP_QUALITY = 90


def encode_picture(picture: Picture, output_format: PictureFormat, quality: int | None = None) -> bytes:
    """Encode 8-bit RGB pixels as a file of the given format; PNG is exact, the others lose less the higher ``quality``, 0 to 100."""
    pixels = np.frombuffer(picture.rgb, dtype=np.uint8).reshape(picture.height, picture.width, 3)
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    match output_format:
        case PictureFormat.PNG:
            image.save(buffer, "PNG", compress_level=3)
        case PictureFormat.JPEG:
            image.save(buffer, "JPEG", quality=JPEG_QUALITY if quality is None else quality)
        case PictureFormat.WEBP:
            image.save(buffer, "WEBP", quality=WEBP_QUALITY if quality is None else quality)
    return buffer.getvalue()
