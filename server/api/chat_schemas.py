"""The body of ``POST /v1/chat/completions``: every field with its bounds, and what is said about fields that are not honoured."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

from model.guidance_rules import GuidanceMode, Renorm
from server.api.chat_fields import CHAT_FIELDS
from server.api.drawing_options import DrawingOptions
from server.api.message_schemas import AnyMessage, Content
from server.api.picture_fields import PICTURE_FIELDS
from server.api.sampling_options import MAX_TOKENS, SamplingOptions, Unit
from server.api.structured_outputs import StructuredOutputs
from server.api.tool_schemas import MAX_TOOLS, ToolChoice, ToolInput, tool_use
from server.api.wire_object import WireObject, invalid, unsupported
from server.serving.asks import Ask, JsonForm, Modality, PictureChoices, PictureFormat, TextChoices, TextForm

MAX_PRIORITY = 1000

TokenCount = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]


class ImageOptions(DrawingOptions):
    """How pictures are drawn: our extension ``image``."""

    model_config = ConfigDict(json_schema_extra=PICTURE_FIELDS.describe)

    guidance: Literal["bagel", "illume"] | None = None
    interval: Annotated[list[Unit], Field(min_length=2, max_length=2)] | None = None
    renorm: Literal["global", "channel", "text_channel"] | None = None
    renorm_min: Unit | None = None
    shift: Annotated[float, Field(ge=0.01, le=100)] | None = None
    max_images: Annotated[int, Field(ge=1, le=16)] | None = None
    progress: bool = False
    output_format: Literal["png", "webp", "jpeg"] = "png"
    response_format: Literal["b64_json", "url"] = "b64_json"

    SYNONYMS: ClassVar[dict[str, str]] = {
        **DrawingOptions.SYNONYMS,
        "cfg_interval": "interval",
        "timestep_shift": "shift",
        "n": "max_images",
    }

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.interval is not None and self.interval[0] > self.interval[1]:
            raise invalid("expected [low, high] with low <= high, both from 0 to 1", "interval")
        return self

    def choices(self) -> PictureChoices:
        """Return the options freed of their wire format."""
        return replace(
            self.drawing(),
            guidance=None if self.guidance is None else GuidanceMode(self.guidance),
            interval=None if self.interval is None else (self.interval[0], self.interval[1]),
            renorm=None if self.renorm is None else Renorm(self.renorm),
            renorm_min=self.renorm_min,
            timestep_shift=self.shift,
            max_images=self.max_images,
            output_format=PictureFormat(self.output_format),
        )


class StreamOptions(WireObject):
    """``include_obfuscation`` has no effect: chunks are not padded; nor has vLLM's ``continuous_usage_stats``: usage comes at the end."""

    include_usage: bool = False
    include_obfuscation: bool = False
    continuous_usage_stats: bool = False


class PromptCacheOptions(WireObject):
    """Accepted, without effect."""

    mode: Literal["implicit", "explicit"] | None = None
    ttl: Annotated[str, Field(max_length=16)] | None = None


class Prediction(WireObject):
    """Accepted, without effect."""

    type: Literal["content"]
    content: Content


class NamedSchema(WireObject):
    """A schema. ``name``, ``description`` and ``strict`` have no effect: every answer is held to its schema, and only that."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Annotated[str, Field(max_length=10_000)] | None = None
    json_schema: dict[str, JsonValue] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(WireObject):
    """``json_object`` is any JSON object, ``json_schema`` one that fits the schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise invalid("expected exactly with type 'json_schema'", "json_schema")
        return self

    def form(self) -> JsonForm | None:
        """Return what the answer's text must be; None when anything will do."""
        if self.type == "text":
            return None
        schema = None if self.json_schema is None else self.json_schema.json_schema
        if schema is None:
            return JsonForm({"type": "object"}, "response_format")
        return JsonForm(schema, "response_format.json_schema.schema")


def _kind_of_stop(value: object) -> str | None:
    if isinstance(value, str):
        return "(string)"
    return "(strings)" if isinstance(value, list) else None


Stop = Annotated[
    Annotated[StopString, Tag("(string)")] | Annotated[list[StopString], Field(max_length=4), Tag("(strings)")],
    Discriminator(_kind_of_stop, custom_error_type="invalid_value", custom_error_message="expected a string or up to 4 strings"),
]


class ChatRequest(SamplingOptions):
    """The whole body. What each field does is said in `server.api.chat_fields`."""

    model_config = ConfigDict(json_schema_extra=CHAT_FIELDS.describe)

    messages: Annotated[list[AnyMessage], Field(min_length=1, max_length=512)]
    model: Annotated[str, Field(max_length=256)]
    modalities: Annotated[list[Literal["text", "image"]], Field(min_length=1, max_length=2)] | None = None
    image: ImageOptions | None = None
    think: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=4)] = 1
    max_completion_tokens: TokenCount | None = None
    max_tokens: TokenCount | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    ignore_eos: bool = False
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    logprobs: bool = False
    stop: Stop | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    tools: Annotated[list[ToolInput], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    user: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    store: bool = False
    service_tier: Annotated[str, Field(max_length=16)] | None = None
    reasoning_effort: Annotated[str, Field(max_length=16)] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None
    prompt_cache_retention: Annotated[str, Field(max_length=16)] | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    prediction: Prediction | None = None

    REFUSED: ClassVar[dict[str, str]] = CHAT_FIELDS.refusals()
    SYNONYMS: ClassVar[dict[str, str]] = {
        "max_new_tokens": "max_completion_tokens",
        "prompt": "messages",
        "size": "image",
        "guidance_scale": "image",
        "num_inference_steps": "image",
        "negative_prompt": "image",
        "enable_thinking": "think",
        "image_config": "image",
        "width": "image",
        "height": "image",
        "true_cfg_scale": "image",
        "num_outputs_per_prompt": "n",
        "num_predict": "max_completion_tokens",
        "n_predict": "max_completion_tokens",
    }

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.modalities is not None and len(set(self.modalities)) < len(self.modalities):
            raise invalid("expected each of 'text' and 'image' at most once", "modalities")
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise invalid("differs from max_completion_tokens; leave one of them out", "max_tokens")
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("needs logprobs=true", "top_logprobs")
        if self.structured_outputs is not None and self.response_format is not None and self.response_format.type != "text":
            raise invalid("cannot be used together with structured_outputs", "response_format")
        if self.stream_options is not None and not self.stream:
            raise invalid("needs stream=true", "stream_options")
        if self.image is not None and self.image.progress and not self.stream:
            raise unsupported("progress needs stream=true", "image.progress")
        if self.image is not None and self.image.partial_images and not self.stream:
            raise unsupported("partial_images needs stream=true", "image.partial_images")
        if self.store:
            raise unsupported("answers are not stored for later; only false is accepted", "store")
        if self.service_tier not in (None, "auto", "default"):
            raise unsupported("there is one tier; only 'auto' and 'default' are accepted", "service_tier")
        self._check_logit_bias()
        return self

    def _check_logit_bias(self) -> None:
        bias = self.logit_bias or {}
        if len(bias) > 300:
            raise invalid("expected at most 300 tokens", "logit_bias")
        if not all(re.fullmatch(r"[0-9]{1,9}", key) for key in bias):
            raise invalid("expected token ids as keys", "logit_bias")

    def ask(self) -> Ask:
        """Return what is asked, freed of its wire format."""
        return Ask(
            messages=[message.message(f"messages[{place}]") for place, message in enumerate(self.messages)],
            modalities=None if self.modalities is None else frozenset(Modality(name) for name in self.modalities),
            text=self._text_choices(),
            pictures=None if self.image is None else self.image.choices(),
            n=self.n,
            seed=self.seed,
            thinks=self.think,
            tenant=tenant_of(self.safety_identifier or self.user),
            priority=-self.priority,
            tool_use=tool_use(self.tools, self.tool_choice, is_parallel=self.parallel_tool_calls),
            text_form=self._text_form(),
            wants_progress=self.image is not None and self.image.progress,
        )

    def _text_form(self) -> TextForm | None:
        if self.structured_outputs is not None:
            return self.structured_outputs.form()
        return None if self.response_format is None else self.response_format.form()

    def _text_choices(self) -> TextChoices:
        return replace(
            self.sampling(),
            logit_bias={int(key): value for key, value in (self.logit_bias or {}).items()},
            max_tokens=self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
            min_tokens=self.min_tokens,
            ignore_eos=self.ignore_eos,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop or [],
        )


def tenant_of(user: str | None) -> str:
    """Return a key for whose request it is; a hash, so that nobody's name travels on."""
    return "" if user is None else hashlib.sha256(user.encode()).hexdigest()[:32]
