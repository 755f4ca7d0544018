"""What goes to a picture reader's process and what comes back."""

from __future__ import annotations

from dataclasses import dataclass

from model.sizes import ImageTransform
from server.messages import ImageSegment
from server.serving.picture_files import PictureLimits


@dataclass(frozen=True, slots=True)
class PictureJob:
    """Read ``encoded``, resize it for the ViT and, when ``draws``, for the VAE too (spec 3.3, 5.2)."""

    encoded: bytes
    param: str
    limits: PictureLimits
    vae_transform: ImageTransform
    vit_transform: ImageTransform
    draws: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a picture is not read: the error's code, as in `server.errors`, and its message."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class PictureResult:
    """Exactly one of the two is there."""

    segment: ImageSegment | None = None
    refusal: Refusal | None = None
