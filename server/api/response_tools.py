"""The one tool of the Responses API that this server has, drawing pictures, and how a request chooses it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from server.api.chat_schemas import MAX_PREVIEWS, Scale, Seed
from server.api.image_schemas import EFFORT_BY_QUALITY, Percent, Prompt, Steps, check_picture_file, check_size, size_of
from server.api.wire_object import WireObject, invalid, unsupported
from server.serving.asks import PictureChoices, PictureFormat

MAX_PICTURES = 16


class ImageTool(WireObject):
    """How pictures are drawn. ``action`` and ``moderation`` have no effect: the prompt decides the one, there is none of the other.

    Ours: ``max_images``, ``num_inference_steps``, ``text_scale``, ``image_scale``, ``negative_prompt``, ``seed``.
    """

    type: Literal["image_generation"]
    action: Literal["generate", "edit", "auto"] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    model: Annotated[str, Field(max_length=256)] | None = None
    moderation: Literal["low", "auto"] | None = None
    output_compression: Percent | None = None
    output_format: Literal["png", "webp", "jpeg", "gif", "svg"] = "png"
    partial_images: Annotated[int, Field(ge=0, le=MAX_PREVIEWS)] = 0
    quality: Literal["low", "medium", "high", "xhigh", "max", "auto"] | None = None
    size: Annotated[str, Field(max_length=11)] | None = None
    max_images: Annotated[int, Field(ge=1, le=MAX_PICTURES)] | None = None
    num_inference_steps: Steps | None = None
    text_scale: Scale | None = None
    image_scale: Scale | None = None
    negative_prompt: Prompt | None = None
    seed: Seed | None = None

    REFUSED: ClassVar[dict[str, str]] = {
        "input_fidelity": "use image_scale: the higher, the closer to the pictures given",
        "input_image_mask": "the model edits whole pictures; say in the prompt what must stay",
        "complexity": "planning cannot be chosen; use quality or num_inference_steps",
        "svg": "pictures are pixels; use output_format png, webp or jpeg",
        "frame_count": "pictures do not move",
        "frame_duration_ms": "pictures do not move",
    }
    SYNONYMS: ClassVar[dict[str, str]] = {"guidance_scale": "text_scale", "steps": "num_inference_steps", "n": "max_images"}

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        check_size(self.size)
        check_picture_file(self.background, self.output_format, self.output_compression)
        if self.quality is not None and self.num_inference_steps is not None:
            raise invalid("stands for a number of steps too; leave one of the two out", "quality")
        return self

    def choices(self, max_calls: int | None) -> PictureChoices:
        """Return the choices; ``max_calls`` is the request's own bound on pictures."""
        bounds = [bound for bound in (self.max_images, max_calls) if bound is not None]
        return PictureChoices(
            size=size_of(self.size),
            num_timesteps=self.num_inference_steps,
            effort=EFFORT_BY_QUALITY[self.quality or "auto"],
            text_scale=self.text_scale,
            image_scale=self.image_scale,
            negative_prompt=self.negative_prompt,
            seed=self.seed,
            max_images=min(bounds, default=None),
            num_previews=self.partial_images,
            output_format=PictureFormat(self.output_format),
            encoder_quality=None if self.output_format == "png" else self.output_compression,
        )


def _kind_of_tool(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return "(image_generation)" if kind == "image_generation" else "(other)"


class OtherTool(WireObject):
    """Any other tool, refused by name."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, value: object) -> object:
        raise unsupported("this server has one tool, image_generation, and its models call no functions", "type")


Tool = Annotated[
    Annotated[ImageTool, Tag("(image_generation)")] | Annotated[OtherTool, Tag("(other)")],
    Discriminator(_kind_of_tool),
]


class ChosenTool(WireObject):
    """Draw, whatever the model would do."""

    type: Literal["image_generation"]


def _kind_of_choice(value: object) -> str | None:
    if isinstance(value, str):
        return "(mode)"
    return "(tool)" if isinstance(value, dict) else None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("(mode)")] | Annotated[ChosenTool, Tag("(tool)")],
    Discriminator(
        _kind_of_choice,
        custom_error_type="invalid_value",
        custom_error_message="expected 'none', 'auto', 'required' or {\"type\": \"image_generation\"}",
    ),
]
