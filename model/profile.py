"""What distinguishes one BAGEL-layout model family from another: token names, who decides when to draw, image resizes, defaults.

All families share one weight layout; these are the behaviours the specification calls configurable (sections 5.1, 8.1 to 8.4). Read
from ``plait.json`` in the model directory, with the family's values for what it leaves out; without one the family is inferred from the
model's names. Imports no torch. The engine obeys the profile, the front takes its defaults from it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TypeVar

from model.config import BagelConfig
from model.config_reader import PLAIT_FILE
from model.guidance_rules import GuidanceMode, Renorm
from model.json_object import JsonObject
from model.model_names import model_names
from model.sizes import ImageTransform

logger = logging.getLogger(__name__)

THINK_TEXT_PROMPT = (
    "You should first think about the reasoning process in the mind and then provide the user with the answer. \n"
    "The reasoning process is enclosed within <think> </think> tags, i.e. <think> reasoning process here </think> answer here"
)
"""System prompt of think mode for answers in words, verbatim (spec 6.5)."""

THINK_IMAGE_PROMPT = (
    "You should first think about the planning process in the mind and then generate the image. \n"
    "The planning process is enclosed within <think> </think> tags, i.e. <think> planning process here </think> image here"
)
"""System prompt of think mode for pictures, verbatim (spec 6.5)."""

INTERLEAVED_HINTS = ("zebra", "illume", "interleav")
"""Spellings in a model's names that tell an interleaved fine-tune from BAGEL itself."""

EQUATION_3_HINT = "illume"
"""The family whose paper guides with three terms instead of nesting (spec 8.4)."""


ChoiceT = TypeVar("ChoiceT", bound=Enum)


class Family(Enum):
    """Which rules a fine-tune follows: who decides when to draw."""

    BAGEL = "bagel"
    """Never begins an image by itself: pictures only when asked for."""
    INTERLEAVED = "interleaved"
    """Trained to emit begin-of-image (Zebra-CoT, ILLUME-X)."""


class BeginOfImage(Enum):
    """Where a begin-of-image token the model samples is obeyed."""

    NEVER = "never"
    AFTER_TEXT_END = "after_text_end"
    IN_TEXT = "in_text"
    ANYWHERE = "anywhere"


class AfterTextEnd(Enum):
    """What follows the end-of-text token."""

    FINISH = "finish"
    MODEL_DECIDES = "model_decides"
    """The logits of the end-of-text row choose the next segment."""


class AfterImage(Enum):
    """What follows a generated picture."""

    START_TEXT = "start_text"
    MODEL_DECIDES = "model_decides"
    """The logits of the picture's end-of-image row choose the next segment."""
    FINISH = "finish"


class ToolStyle(Enum):
    """How the model was taught to call tools."""

    NONE = "none"
    QWEN = "qwen"
    """As Qwen2.5-Instruct, BAGEL's ancestor: tools listed in the prompt, calls as JSON between ``<tool_call>`` tags."""


@dataclass(frozen=True, slots=True)
class SamplerDefaults:
    """How one kind of picture is drawn when the request does not say (spec 6.4). ``interval`` is in shifted flow time."""

    text_scale: float
    image_scale: float
    interval: tuple[float, float]
    renorm: Renorm
    renorm_min: float = 0.0
    timestep_shift: float = 3.0
    num_timesteps: int = 50


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Values a request may leave out. Sizes are ``(height, width)`` in pixels, multiples of the latent stride."""

    guidance: GuidanceMode
    text_to_image: SamplerDefaults
    edit: SamplerDefaults
    image_size: tuple[int, int]
    offered_sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class FamilyProfile:
    """The rules of one model.

    Attributes:
        bos, eos, boi, eoi: spellings of begin and end of text, begin and end of image.
        end_token_names: tokens that end the answer where the model decides what comes next.
        dropped_image_advances_position: whether a guidance branch that drops a picture still counts its rotary position
            (training does, the reference's inference does not: spec 8.4).
        tools: how it calls tools, if it was taught to.
    """

    family: Family
    bos: str
    eos: str
    boi: str
    eoi: str
    end_token_names: tuple[str, ...]
    begin_of_image: BeginOfImage
    after_text_end: AfterTextEnd
    after_image: AfterImage
    dropped_image_advances_position: bool
    vae_transform: ImageTransform
    vit_transform: ImageTransform
    defaults: GenerationDefaults
    tools: ToolStyle

    @classmethod
    def of_family(cls, family: Family, config: BagelConfig) -> FamilyProfile:
        """Return the family's own rules for a model of this configuration."""
        is_bagel = family is Family.BAGEL
        return cls(
            family=family,
            bos="<|im_start|>",
            eos="<|im_end|>",
            boi="<|vision_start|>",
            eoi="<|vision_end|>",
            end_token_names=("<|endoftext|>", "<|im_end|>"),
            begin_of_image=BeginOfImage.NEVER if is_bagel else BeginOfImage.ANYWHERE,
            after_text_end=AfterTextEnd.FINISH if is_bagel else AfterTextEnd.MODEL_DECIDES,
            after_image=AfterImage.START_TEXT if is_bagel else AfterImage.MODEL_DECIDES,
            dropped_image_advances_position=False,
            vae_transform=config.vae_transform,
            vit_transform=config.vit_transform,
            defaults=_reference_defaults(config),
            tools=ToolStyle.QWEN if is_bagel else ToolStyle.NONE,
        )

    @classmethod
    def from_directory(cls, path: str | Path, config: BagelConfig, family: Family | None = None) -> FamilyProfile:
        """Read the profile of the model directory ``path``; ``family`` overrides what the directory states or suggests.

        Raises:
            CheckpointError: ``plait.json`` has an unknown field or a wrong value.
        """
        directory = Path(path)
        fields = JsonObject.read_optional(directory / PLAIT_FILE)
        names = model_names(directory)
        profile = cls.of_family(_family(names, fields, family), config)
        if _told_by(names, (EQUATION_3_HINT,)) and profile.family is Family.INTERLEAVED:
            profile = replace(profile, defaults=replace(profile.defaults, guidance=GuidanceMode.ILLUME))
        return _overridden(profile, fields, config)


PROFILE_FIELDS = frozenset(FamilyProfile.__slots__)
DEFAULTS_FIELDS = frozenset(GenerationDefaults.__slots__)
SAMPLER_FIELDS = frozenset(SamplerDefaults.__slots__)


def _reference_defaults(config: BagelConfig) -> GenerationDefaults:
    """Spec 6.4, the notebook's values; sizes in the released model's proportions of this model's largest side."""
    stride = config.latent_stride
    side = config.latent_table_side * stride
    three_quarters = max(stride, side * 3 // 4 // stride * stride)
    nine_sixteenths = max(stride, side * 9 // 16 // stride * stride)
    return GenerationDefaults(
        guidance=GuidanceMode.BAGEL,
        text_to_image=SamplerDefaults(text_scale=4.0, image_scale=1.0, interval=(0.4, 1.0), renorm=Renorm.GLOBAL),
        edit=SamplerDefaults(text_scale=4.0, image_scale=2.0, interval=(0.0, 1.0), renorm=Renorm.TEXT_CHANNEL),
        image_size=(side, side),
        offered_sizes=(
            (side, side),
            (three_quarters, side),
            (side, three_quarters),
            (nine_sixteenths, side),
            (side, nine_sixteenths),
        ),
    )


def _family(names: tuple[str, ...], fields: JsonObject, asked: Family | None) -> Family:
    """Return the family asked for, else stated, else the one the model's names suggest; the log says which and why."""
    stated = _choice(fields, "family", Family.BAGEL)
    if asked is not None:
        family, reason = asked, "as asked for"
    elif fields.has("family"):
        family, reason = stated, f"as {PLAIT_FILE} states"
    elif telling := _told_by(names, INTERLEAVED_HINTS):
        family, reason = Family.INTERLEAVED, f"inferred from the name {telling!r}"
    else:
        family, reason = Family.BAGEL, f"inferred, since none of its names tells of another: {', '.join(names)}"
    logger.info("model family %s: %s", family.value, reason)
    return family


def _told_by(names: tuple[str, ...], hints: tuple[str, ...]) -> str | None:
    """Return the first name that holds one of the hints, in whatever case."""
    return next((name for name in names if any(hint in name.lower() for hint in hints)), None)


def _overridden(profile: FamilyProfile, fields: JsonObject, config: BagelConfig) -> FamilyProfile:
    """Put what ``plait.json`` states over the family's values; the transforms came with the configuration."""
    fields.allow_only(PROFILE_FIELDS)
    return replace(
        profile,
        bos=fields.string("bos", profile.bos),
        eos=fields.string("eos", profile.eos),
        boi=fields.string("boi", profile.boi),
        eoi=fields.string("eoi", profile.eoi),
        end_token_names=fields.strings("end_token_names", profile.end_token_names),
        begin_of_image=_choice(fields, "begin_of_image", profile.begin_of_image),
        after_text_end=_choice(fields, "after_text_end", profile.after_text_end),
        after_image=_choice(fields, "after_image", profile.after_image),
        dropped_image_advances_position=fields.boolean("dropped_image_advances_position", profile.dropped_image_advances_position),
        defaults=_overridden_defaults(profile.defaults, fields.child("defaults"), config),
        tools=_choice(fields, "tools", profile.tools),
    )


def _overridden_defaults(defaults: GenerationDefaults, fields: JsonObject, config: BagelConfig) -> GenerationDefaults:
    fields.allow_only(DEFAULTS_FIELDS)
    return GenerationDefaults(
        guidance=_choice(fields, "guidance", defaults.guidance),
        text_to_image=_overridden_sampler(defaults.text_to_image, fields.child("text_to_image")),
        edit=_overridden_sampler(defaults.edit, fields.child("edit")),
        image_size=_size(fields, "image_size", defaults.image_size, config),
        offered_sizes=_sizes(fields, defaults.offered_sizes, config),
    )


def _overridden_sampler(sampler: SamplerDefaults, fields: JsonObject) -> SamplerDefaults:
    fields.allow_only(SAMPLER_FIELDS)
    return SamplerDefaults(
        text_scale=fields.number("text_scale", sampler.text_scale),
        image_scale=fields.number("image_scale", sampler.image_scale),
        interval=_interval(fields, sampler.interval),
        renorm=_choice(fields, "renorm", sampler.renorm),
        renorm_min=fields.number("renorm_min", sampler.renorm_min),
        timestep_shift=fields.number("timestep_shift", sampler.timestep_shift),
        num_timesteps=fields.positive("num_timesteps", sampler.num_timesteps),
    )


def _choice(fields: JsonObject, name: str, fallback: ChoiceT) -> ChoiceT:
    """Return the member of ``fallback``'s enum the field names."""
    kind = type(fallback)
    try:
        return kind(fields.string(name, fallback.value))
    except ValueError as error:
        raise fields.wrong(name, "one of " + ", ".join(repr(member.value) for member in kind)) from error


def _interval(fields: JsonObject, fallback: tuple[float, float]) -> tuple[float, float]:
    bounds = fields.fields.get("interval", list(fallback))
    if not isinstance(bounds, list) or len(bounds) != 2 or not all(isinstance(bound, int | float) for bound in bounds):
        raise fields.wrong("interval", "two numbers")
    return float(bounds[0]), float(bounds[1])


def _size(fields: JsonObject, name: str, fallback: tuple[int, int], config: BagelConfig) -> tuple[int, int]:
    """Return a (height, width) the latent position table can hold."""
    sides = fields.positives(name, fallback)
    stride, largest = config.latent_stride, config.latent_table_side * config.latent_stride
    if len(sides) != 2 or any(side % stride or side > largest for side in sides):
        raise fields.wrong(name, f"[height, width], multiples of {stride} up to {largest}")
    return sides[0], sides[1]


def _sizes(fields: JsonObject, fallback: tuple[tuple[int, int], ...], config: BagelConfig) -> tuple[tuple[int, int], ...]:
    listed = fields.fields.get("offered_sizes")
    if listed is None:
        return fallback
    if not isinstance(listed, list) or not listed:
        raise fields.wrong("offered_sizes", "a list of [height, width]")
    places = JsonObject(fields.path, {str(index): size for index, size in enumerate(listed)}, fields.place + "offered_sizes.")
    return tuple(_size(places, name, fallback[0], config) for name in places.fields)
