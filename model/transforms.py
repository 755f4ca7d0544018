"""From an uploaded picture to the 8-bit pixels the model reads: colour conversion and the two resizes of spec 3.3.

The front does this before the engine sees a request, with Pillow and numpy and no torch. BAGEL: data/transforms.py
(`MaxLongEdgeMinShortEdgeResize`) and data/data_utils.py (`pil_img2rgb`).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.sizes import ImageTransform

Pixels = npt.NDArray[np.uint8]
"""``[height, width, 3]`` 8-bit RGB."""

MAX_PIXELS = 14 * 14 * 9 * 1024
"""Area above which the reference scales down once more (spec 3.3 step 3)."""

ALPHA_MODES = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})

SIXTEEN_BIT_GREY = "I;16"
"""Pillow's mode of a grey PNG of 16 bits."""


class HasTransforms(Protocol):
    """A `BagelConfig` or a `FamilyProfile`."""

    @property
    def vae_transform(self) -> ImageTransform: ...

    @property
    def vit_transform(self) -> ImageTransform: ...


def resize_size(width: int, height: int, transform: ImageTransform) -> tuple[int, int]:
    """Return the ``(width, height)`` a picture of this size is resized to; both are multiples of the stride.

    ``round`` is Python's half-to-even, and the area rule scales by the ratio itself, not its root: both as in the reference.
    """
    scale = min(transform.max_size / max(width, height), 1.0)
    scale = max(scale, transform.min_size / min(width, height))
    size = _scaled(width, height, scale, transform.stride)
    if size[0] * size[1] > MAX_PIXELS:
        size = _scaled(*size, MAX_PIXELS / (size[0] * size[1]), transform.stride)
    if max(size) > transform.max_size:
        size = _scaled(*size, transform.max_size / max(size), transform.stride)
    return size


def resize(image: Image.Image, transform: ImageTransform) -> Image.Image:
    """Resize an RGB picture by the rule, bicubic; a picture that has its size already is returned as it is."""
    size = resize_size(image.width, image.height, transform)
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.BICUBIC)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB; transparency is composited on white, EXIF orientation is ignored (spec 3.3).

    A departure from the reference, where 16-bit grey above level 255 is white: its high bytes are kept, as Pillow does with 16-bit colour.
    """
    if image.mode == SIXTEEN_BIT_GREY:
        image = _high_bytes(image)
    if image.mode not in ALPHA_MODES and image.info.get("transparency") is None:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    flattened = Image.new("RGB", layered.size, (255, 255, 255))
    flattened.paste(layered, mask=layered.getchannel("A"))
    return flattened


def vae_and_vit(image: Image.Image, config: HasTransforms) -> tuple[Pixels, Pixels]:
    """Return the picture as the VAE and as the ViT see it, each ``[height, width, 3]`` uint8.

    The ViT's picture is the VAE's resized a second time, as in the reference.
    """
    vae = resize(to_rgb(image), config.vae_transform)
    vit = resize(vae, config.vit_transform)
    return np.array(vae, dtype=np.uint8), np.array(vit, dtype=np.uint8)


def _high_bytes(image: Image.Image) -> Image.Image:
    """Return 16-bit grey in 8 bits; the level the file calls transparent becomes an alpha channel."""
    levels = np.asarray(image)
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    transparent_level = image.info.get("transparency")
    if transparent_level is not None:
        grey.putalpha(Image.fromarray(levels != transparent_level))
    return grey


def _scaled(width: int, height: int, scale: float, stride: int) -> tuple[int, int]:
    return _multiple(round(width * scale), stride), _multiple(round(height * scale), stride)


def _multiple(length: int, stride: int) -> int:
    return max(stride, round(length / stride) * stride)
