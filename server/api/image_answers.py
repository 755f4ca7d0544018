"""Answers of the Images API as clients get them, whole and as events: OpenAI's shapes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from server.api.chat_answers import IfSaid

FormatOut = Literal["png", "webp", "jpeg"]
QualityOut = Literal["low", "medium", "high", "xhigh", "max"]


class PictureTokensOut(BaseModel):
    text_tokens: int
    image_tokens: int


class PictureUsageOut(BaseModel):
    input_tokens: int
    input_tokens_details: PictureTokensOut
    output_tokens: int
    output_tokens_details: PictureTokensOut
    total_tokens: int


class PictureOut(BaseModel):
    """One of ``data``."""

    b64_json: IfSaid[str] = None
    url: IfSaid[str] = None


class PicturesOut(BaseModel):
    """The answer to a request that does not stream. ``quality`` is left out where the request gave steps instead."""

    created: int
    background: Literal["opaque"] = "opaque"
    output_format: FormatOut
    quality: IfSaid[QualityOut] = None
    size: str
    data: list[PictureOut]
    usage: PictureUsageOut


class PictureEventOut(BaseModel):
    """What every event of a stream has. ``index`` tells pictures apart where more than one was asked for."""

    type: str
    b64_json: str
    background: Literal["opaque"] = "opaque"
    created_at: int
    output_format: FormatOut
    quality: QualityOut | Literal["auto"]
    size: str
    index: IfSaid[int] = None


class PartialPictureOut(PictureEventOut):
    """A rough picture on the way: small, and WebP whatever the picture will be."""

    type: Literal["image_generation.partial_image", "image_edit.partial_image"]
    partial_image_index: int


class CompletedPictureOut(PictureEventOut):
    type: Literal["image_generation.completed", "image_edit.completed"]
    usage: PictureUsageOut
