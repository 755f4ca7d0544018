"""How a picture is drawn: the options that are the same wherever one is asked for, and those that OpenAI's own routes and tool have."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from server.api.step_cache_options import STEP_CACHE_FIELDS, StepCacheOptions
from server.api.wire_object import invalid, unsupported
from server.serving.asks import Effort, PictureChoices, PictureFormat

SEED_BOUND = 1 << 63
MAX_PREVIEWS = 3

Seed = Annotated[int, Field(ge=-SEED_BOUND, lt=SEED_BOUND)]
Scale = Annotated[float, Field(ge=0, le=30)]
QualityName = Literal["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"]

EFFORT_BY_QUALITY = {
    "low": Effort.LOW,
    "medium": Effort.MEDIUM,
    "standard": Effort.MEDIUM,
    "auto": Effort.MEDIUM,
    "high": Effort.HIGH,
    "hd": Effort.HIGH,
    "xhigh": Effort.XHIGH,
    "max": Effort.MAX,
}

SIZE = "WIDTHxHEIGHT in pixels, or auto for the model's own"
PREVIEWS = "how many rough pictures are sent of each, 0 to 3, in a stream"
DRAWING_FIELDS = {
    "text_scale": "how closely a picture follows the words; 1 is off",
    "image_scale": "how closely an edit keeps to its picture; where there is none, strengthens text_scale; 1 is off",
    "negative_prompt": "what guidance leads away from",
    "seed": "the same seed draws the same pictures, whoever else is served",
    **STEP_CACHE_FIELDS,
}
OFFICIAL_FIELDS = {
    "size": SIZE,
    "quality": "how many steps a picture gets: low half of the model's own, high 1.5 times, xhigh 2, max 3",
    "background": "opaque or auto; pictures are never transparent",
    "output_format": "png, webp or jpeg",
    "output_compression": "quality of webp and jpeg, 0 to 100",
    "partial_images": PREVIEWS,
}


class DrawingOptions(StepCacheOptions):
    """What is left out takes the model family's default (spec 6.4)."""

    size: Annotated[str, Field(max_length=11)] | None = None
    num_inference_steps: Annotated[int, Field(ge=2, le=1000)] | None = None
    text_scale: Scale | None = None
    image_scale: Scale | None = None
    negative_prompt: Annotated[str, Field(max_length=32_000)] | None = None
    seed: Seed | None = None
    partial_images: Annotated[int, Field(ge=0, le=MAX_PREVIEWS)] = 0

    SYNONYMS: ClassVar[dict[str, str]] = {
        "guidance_scale": "text_scale",
        "cfg_scale": "text_scale",
        "cfg_text_scale": "text_scale",
        "true_cfg_scale": "text_scale",
        "cfg_img_scale": "image_scale",
        "num_timesteps": "num_inference_steps",
        "steps": "num_inference_steps",
        "previews": "partial_images",
        "width": "size",
        "height": "size",
    }

    @model_validator(mode="after")
    def _has_a_size(self) -> Self:
        if self.size not in (None, "auto") and re.fullmatch(r"[0-9]{1,5}x[0-9]{1,5}", self.size or "") is None:
            raise invalid("expected 'auto' or WIDTHxHEIGHT in pixels, such as '1024x768'", "size")
        return self

    def drawing(self) -> PictureChoices:
        """Return the choices so far, freed of their wire format."""
        return PictureChoices(
            size=self._size(),
            num_timesteps=self.num_inference_steps,
            text_scale=self.text_scale,
            image_scale=self.image_scale,
            negative_prompt=self.negative_prompt,
            seed=self.seed,
            num_previews=self.partial_images,
            step_cache=self.step_cache_choice(),
        )

    def _size(self) -> tuple[int, int] | None:
        if self.size is None or self.size == "auto":
            return None
        width, height = self.size.split("x")
        return int(width), int(height)


class OfficialOptions(DrawingOptions):
    """What OpenAI has for its pictures, and ours beside it."""

    quality: QualityName | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    output_format: Literal["png", "webp", "jpeg", "gif", "svg"] = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    moderation: Literal["low", "auto"] | None = None

    @model_validator(mode="after")
    def _is_made_here(self) -> Self:
        if self.background == "transparent":
            raise unsupported("pictures are opaque; use 'opaque' or 'auto'", "background")
        if self.output_format in ("gif", "svg"):
            raise unsupported("pictures are sent as png, webp or jpeg", "output_format")
        if self.output_compression not in (None, 100) and self.output_format == "png":
            raise unsupported("png loses nothing; use output_format webp or jpeg", "output_compression")
        if self.quality is not None and self.num_inference_steps is not None:
            raise invalid("stands for a number of steps too; leave one of the two out", "quality")
        return self

    def drawing(self) -> PictureChoices:
        """Return the choices so far, freed of their wire format."""
        return replace(
            super().drawing(),
            effort=EFFORT_BY_QUALITY[self.quality or "auto"],
            output_format=PictureFormat(self.output_format),
            encoder_quality=None if self.output_format == "png" else self.output_compression,
        )
