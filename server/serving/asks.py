"""What a client asks for, freed of its wire format: messages of words and pictures, and every choice it may leave open.

The HTTP layer makes these from a checked body; `server.serving.prepare` turns one into engine requests. ``None`` always means that the
client did not say, so that the model's own default applies. ``param`` names the place in the body, for errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from pydantic import JsonValue

from model.guidance_rules import GuidanceMode, Renorm
from model.step_cache_rules import StepCache

MAX_ENUM_VALUES = 1000
"""How many texts or values an answer may be one of."""
MAX_PATTERN_CHARS = 512


class Modality(Enum):
    """What an answer may hold."""

    TEXT = "text"
    IMAGE = "image"


class PictureFormat(Enum):
    """How pictures of the answer are encoded."""

    PNG = "png"
    WEBP = "webp"
    JPEG = "jpeg"

    @property
    def media_type(self) -> str:
        """The format's name in a ``Content-Type`` or a data URI."""
        return f"image/{self.value}"


class Effort(Enum):
    """How many steps a picture gets, as a multiple of the model's own number."""

    LOW = 0.5
    MEDIUM = 1.0
    HIGH = 1.5
    XHIGH = 2.0
    MAX = 3.0


@dataclass(frozen=True, slots=True)
class TextPart:
    """``has_call_tags``: the tags of tool calls in it are tokens, not letters; never so in a client's own text."""

    text: str
    has_call_tags: bool = False


@dataclass(frozen=True, slots=True)
class PicturePart:
    """``url`` as the client sent it; only data URIs are read."""

    url: str
    param: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation, whoever spoke; its parts in order."""

    parts: list[TextPart | PicturePart]
    param: str


@dataclass(frozen=True, slots=True)
class TextChoices:
    """How words are drawn."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)
    max_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    stop: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PictureChoices:
    """How pictures are drawn and sent. ``size`` is (width, height); ``encoder_quality``, 0 to 100, is for WebP and JPEG."""

    size: tuple[int, int] | None = None
    num_timesteps: int | None = None
    effort: Effort = Effort.MEDIUM
    guidance: GuidanceMode | None = None
    text_scale: float | None = None
    image_scale: float | None = None
    interval: tuple[float, float] | None = None
    renorm: Renorm | None = None
    renorm_min: float | None = None
    timestep_shift: float | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    max_images: int | None = None
    num_previews: int = 0
    output_format: PictureFormat = PictureFormat.PNG
    encoder_quality: int | None = None
    step_cache: StepCache | None = None


@dataclass(frozen=True, slots=True)
class ParamNames:
    """What the client's format calls what only the model can judge, for errors."""

    messages: str = "messages"
    max_tokens: str = "max_completion_tokens"
    size: str = "image.size"
    negative_prompt: str = "image.negative_prompt"


@dataclass(frozen=True, slots=True)
class JsonForm:
    """The answer's text must be JSON that fits ``schema``."""

    schema: dict[str, JsonValue]
    param: str


@dataclass(frozen=True, slots=True)
class ChoiceForm:
    """The answer's text must be one of ``choices``."""

    choices: list[str]
    param: str


@dataclass(frozen=True, slots=True)
class PatternForm:
    """The answer's text must be what ``pattern``, a regular expression, matches from end to end."""

    pattern: str
    param: str


TextForm = JsonForm | ChoiceForm | PatternForm


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; ``parameters`` is a JSON schema, None for a function of none.

    Where it ``is_strict``, calls fit all of the schema, or are refused; else as much of it as they can be held to.
    """

    name: str
    description: str | None
    parameters: dict[str, JsonValue] | None
    param: str
    is_strict: bool = False


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of an ask. ``must_call``: the answer is a call, and nothing else; ``is_parallel``: it may be several."""

    tools: list[Tool]
    must_call: bool
    is_parallel: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a client.

    Attributes:
        modalities: what the answer may hold; None leaves it to the model family.
        pictures: None when the client said nothing about pictures.
        n: how many answers.
        thinks: whether the model plans in words first (spec 6.5).
        tenant: on whose account it runs; empty for everybody who does not say.
        user: which of the tenant's users its client names; empty where the account is the user's own.
        weight: the tenant's share of the engine beside others'.
        deadline_s: seconds from its arrival after which the ask is given up, whatever it is doing.
        priority: higher is served earlier.
    """

    messages: list[Message]
    modalities: frozenset[Modality] | None = None
    text: TextChoices = field(default_factory=TextChoices)
    pictures: PictureChoices | None = None
    n: int = 1
    seed: int | None = None
    thinks: bool = False
    wants_progress: bool = False
    names: ParamNames = ParamNames()
    tenant: str = ""
    user: str = ""
    weight: float = 1.0
    deadline_s: float | None = None
    priority: int = 0
    text_form: TextForm | None = None
    tool_use: ToolUse | None = None

    def on_account(self, tenant: str, weight: float) -> Ask:
        """Return the ask on the account of a tenant, whose user whoever its client names becomes."""
        return replace(self, tenant=tenant, user=self.tenant, weight=weight)
