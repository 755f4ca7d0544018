"""Pictures at the edge: a data URI to checked pixels, and the engine's pixels to an encoded picture.

Nothing is decoded before its header has passed every bound: format by its first bytes and by Pillow's plug-in of that format alone,
width, height, area, proportions, one frame. Messages are fixed text and our own numbers; Pillow's words never reach a client.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, PngImagePlugin, WebPImagePlugin

from model.config import BagelConfig
from model.transforms import to_rgb, vae_and_vit
from server.errors import ImageTooLarge, InvalidImage, UnsupportedParameter
from server.messages import ImageSegment, Picture
from server.serving.asks import PictureFormat, PicturePart

MAGIC_BYTES = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
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

JPEG_QUALITY = 92
WEBP_QUALITY = 90


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """Bounds of one input picture. ``max_proportion`` is the longer side over the shorter."""

    max_bytes: int = 20 << 20
    max_pixels: int = 36_000_000
    max_side: int = 16_384
    max_proportion: float = 32.0


def read_picture(part: PicturePart, limits: PictureLimits) -> Image.Image:
    """Decode the picture in a data URI, as 8-bit RGB.

    Raises:
        UnsupportedParameter: an address to fetch from.
        InvalidImage: not base64, not PNG, JPEG or WebP, animated, broken or truncated.
        ImageTooLarge: beyond ``limits``.
    """
    encoded = _picture_bytes(part, limits)
    formats = [_format_of(encoded, part)]
    try:
        with Image.open(io.BytesIO(encoded), formats=formats) as image:
            _check_header(image, part, limits)
            # Decoding stops at the last pixel; this reads on to the end of the file where the format has checksums.
            image.verify()
        with Image.open(io.BytesIO(encoded), formats=formats) as image:
            image.load()
            return to_rgb(image)
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"{part.param}: the picture has more than the {limits.max_pixels} pixels that are read.", part.param) from error
    except DECODE_ERRORS as error:
        raise InvalidImage(f"{part.param}: the picture is broken or truncated.", part.param) from error


def input_segment(image: Image.Image, config: BagelConfig, *, draws: bool) -> ImageSegment:
    """Resize a picture for the towers that will read it: the ViT, and the VAE too when pictures will be drawn (spec 5.2)."""
    vae, vit = vae_and_vit(image, config)
    return ImageSegment(vit=_picture(vit), vae=_picture(vae) if draws else None)


def encode_picture(picture: Picture, output_format: PictureFormat) -> bytes:
    """Encode 8-bit RGB pixels as a file of the given format; PNG is exact."""
    pixels = np.frombuffer(picture.rgb, dtype=np.uint8).reshape(picture.height, picture.width, 3)
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    match output_format:
        case PictureFormat.PNG:
            image.save(buffer, "PNG", compress_level=3)
        case PictureFormat.JPEG:
            image.save(buffer, "JPEG", quality=JPEG_QUALITY)
        case PictureFormat.WEBP:
            image.save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()


def data_uri(encoded: bytes, output_format: PictureFormat) -> str:
    """Return a picture as a ``data:`` address."""
    return f"data:{output_format.media_type};base64,{base64.b64encode(encoded).decode('ascii')}"


def _picture_bytes(part: PicturePart, limits: PictureLimits) -> bytes:
    scheme, _, rest = part.url.partition(":")
    if scheme.lower() in ("http", "https"):
        message = f"{part.param}: this server does not fetch pictures; send them as data:image/png;base64,…"
        raise UnsupportedParameter(message, part.param)
    media_type, comma, payload = rest.partition(",")
    if scheme.lower() != "data" or not comma or not media_type.lower().endswith(";base64"):
        raise InvalidImage(f"{part.param}: expected a data URI such as data:image/png;base64,…", part.param)
    if len(payload) > limits.max_bytes * 4 // 3 + 4:
        raise ImageTooLarge(f"{part.param}: the picture has more than {limits.max_bytes} bytes.", part.param)
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImage(f"{part.param}: the data URI is not valid base64.", part.param) from error


def _format_of(encoded: bytes, part: PicturePart) -> str:
    for magic, name in MAGIC_BYTES.items():
        if encoded.startswith(magic):
            return name
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return "WEBP"
    raise InvalidImage(f"{part.param}: the bytes are no PNG, JPEG or WebP picture.", part.param)


def _check_header(image: Image.Image, part: PicturePart, limits: PictureLimits) -> None:
    width, height = image.size
    size = f"{part.param}: the picture is {width}x{height}"
    if max(width, height) > limits.max_side:
        raise ImageTooLarge(f"{size}; a side may have at most {limits.max_side} pixels.", part.param)
    if width * height > limits.max_pixels:
        raise ImageTooLarge(f"{size}; at most {limits.max_pixels} pixels are read.", part.param)
    if max(width, height) > limits.max_proportion * min(width, height):
        message = f"{size}; the longer side may be at most {limits.max_proportion:g} times the shorter."
        raise ImageTooLarge(message, part.param)
    if isinstance(image, PngImagePlugin.PngImageFile | WebPImagePlugin.WebPImageFile) and image.is_animated:
        raise InvalidImage(f"{part.param}: the picture is animated; send one frame.", part.param)


def _picture(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Picture:
    height, width, _ = pixels.shape
    return Picture(height=height, width=width, rgb=pixels.tobytes())
