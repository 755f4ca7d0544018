"""A picture file from outside, read: every bound of its header checked before a pixel is decoded.

Format by the first bytes and by Pillow's plug-in of that format alone; width, height, area, proportions, one frame. Messages are fixed
text and our own numbers; Pillow's words never reach a client. Runs in the picture reader's process (`server.serving.picture_reader`).
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

from PIL import Image, PngImagePlugin, WebPImagePlugin

from model.transforms import to_rgb
from server.errors import ImageTooLarge, InvalidImage
from server.serving.gif_blocks import count_pictures

MAGIC_BYTES = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF87a": "GIF", b"GIF89a": "GIF"}
"""First bytes of a file by format; WebP is a RIFF container and has its mark further in."""

DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on broken files."""


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """Bounds of one input picture. ``max_proportion`` is the longer side over the shorter."""

    max_bytes: int = 20 << 20
    max_pixels: int = 36_000_000
    max_side: int = 16_384
    max_proportion: float = 32.0


def decode_picture(encoded: bytes, param: str, limits: PictureLimits) -> Image.Image:
    """Decode a picture file, as 8-bit RGB; ``param`` is where it stood in the request, for messages.

    Raises:
        InvalidImage: not PNG, JPEG, WebP or GIF, animated, broken or truncated.
        ImageTooLarge: beyond ``limits``.
    """
    formats = [_format_of(encoded, param)]
    try:
        if formats == ["GIF"] and count_pictures(encoded) > 1:
            raise _animated(param)
        with Image.open(io.BytesIO(encoded), formats=formats) as image:
            _check_header(image, param, limits)
            # Decoding stops at the last pixel; this reads on to the end of the file where the format has checksums.
            image.verify()
        with Image.open(io.BytesIO(encoded), formats=formats) as image:
            image.load()
            return to_rgb(image)
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"{param}: the picture has more than the {limits.max_pixels} pixels that are read.", param) from error
    except DECODE_ERRORS as error:
        raise InvalidImage(f"{param}: the picture is broken or truncated.", param) from error


def _format_of(encoded: bytes, param: str) -> str:
    for magic, name in MAGIC_BYTES.items():
        if encoded.startswith(magic):
            return name
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return "WEBP"
    raise InvalidImage(f"{param}: the bytes are not a PNG, JPEG, WebP or GIF picture.", param)


def _check_header(image: Image.Image, param: str, limits: PictureLimits) -> None:
    width, height = image.size
    size = f"{param}: the picture is {width}x{height}"
    if max(width, height) > limits.max_side:
        raise ImageTooLarge(f"{size}; a side may have at most {limits.max_side} pixels.", param)
    if width * height > limits.max_pixels:
        raise ImageTooLarge(f"{size}; at most {limits.max_pixels} pixels are read.", param)
    if max(width, height) > limits.max_proportion * min(width, height):
        message = f"{size}; the longer side may be at most {limits.max_proportion:g} times the shorter."
        raise ImageTooLarge(message, param)
    if isinstance(image, PngImagePlugin.PngImageFile | WebPImagePlugin.WebPImageFile) and image.is_animated:
        raise _animated(param)


def _animated(param: str) -> InvalidImage:
    return InvalidImage(f"{param}: the picture is animated; send one frame.", param)
