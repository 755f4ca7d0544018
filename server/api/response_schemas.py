"""The body of ``POST /v1/responses``: every field with its bounds, and what is said about fields that are not honoured."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

from server.api.chat_schemas import PromptCacheOptions, TokenCount, tenant_of
from server.api.message_schemas import Text
from server.api.response_fields import RESPONSE_FIELDS
from server.api.response_items import InputItem, Items, said_in_order
from server.api.response_tools import ChosenTools, ImageTool, Tool, ToolChoice, chosen_tools
from server.api.sampling_options import SamplingOptions
from server.api.structured_outputs import StructuredOutputs
from server.api.tool_schemas import MAX_TOOLS
from server.api.wire_object import WireObject, invalid, unsupported
from server.serving.asks import Ask, JsonForm, Message, Modality, ParamNames, TextForm, TextPart

LOGPROBS = "message.output_text.logprobs"

NAMES = ParamNames(messages="input", max_tokens="max_output_tokens", size="tools[0].size", negative_prompt="tools[0].negative_prompt")


class TextFormat(WireObject):
    """What the answer's text must be. ``name``, ``description`` and ``strict`` have no effect: it always fits all of its schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    description: Annotated[str, Field(max_length=10_000)] | None = None
    json_schema: dict[str, JsonValue] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise invalid("expected exactly with type 'json_schema'", "schema")
        if self.type == "json_schema" and self.name is None:
            raise invalid("expected with type 'json_schema'", "name")
        return self

    def form(self) -> JsonForm | None:
        """Return what the answer's text must be; None when anything will do."""
        if self.type == "text":
            return None
        return JsonForm({"type": "object"} if self.json_schema is None else self.json_schema, "text.format")


class TextOptions(WireObject):
    """``verbosity`` has no effect: the model takes no such setting."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(WireObject):
    """No effect: effort cannot be measured out, and plans are shown whole; ``think`` lets the model plan first."""

    effort: Annotated[str, Field(max_length=16)] | None = None
    summary: Annotated[str, Field(max_length=16)] | None = None
    generate_summary: Annotated[str, Field(max_length=16)] | None = None
    context: Annotated[str, Field(max_length=16)] | None = None
    mode: Annotated[str, Field(max_length=16)] | None = None


class StreamOptions(WireObject):
    """No effect: events are not padded."""

    include_obfuscation: bool | None = None


def _kind_of_input(value: object) -> str | None:
    if isinstance(value, str):
        return "(string)"
    return "(items)" if isinstance(value, list) else None


Input = Annotated[
    Annotated[Text, Tag("(string)")] | Annotated[Items, Tag("(items)")],
    Discriminator(_kind_of_input, custom_error_type="invalid_value", custom_error_message="expected a string or a list of items"),
]


class ResponseRequest(SamplingOptions):
    """The whole body. What each field does is said in `server.api.response_fields`."""

    model_config = ConfigDict(json_schema_extra=RESPONSE_FIELDS.describe)

    input: Input
    model: Annotated[str, Field(max_length=256)]
    instructions: Text | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Field(ge=1, le=1000)] | None = None
    text: TextOptions | None = None
    structured_outputs: StructuredOutputs | None = None
    think: bool = False
    max_output_tokens: TokenCount | None = None
    include: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=16)] | None = None
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    previous_response_id: Annotated[str, Field(max_length=128)] | None = None
    store: bool = True
    stream: bool = False
    stream_options: StreamOptions | None = None
    background: bool = False
    truncation: Literal["auto", "disabled"] | None = None
    reasoning: ReasoningOptions | None = None
    service_tier: Annotated[str, Field(max_length=16)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None
    prompt_cache_retention: Annotated[str, Field(max_length=16)] | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None

    MAX_VALUES: ClassVar[int] = 1 << 20
    """Clients send answers back as they came: with twenty alternatives to each token, a token has 233 values."""

    REFUSED: ClassVar[dict[str, str]] = RESPONSE_FIELDS.refusals()
    SYNONYMS: ClassVar[dict[str, str]] = {
        "messages": "input",
        "max_tokens": "max_output_tokens",
        "max_completion_tokens": "max_output_tokens",
        "response_format": "text",
        "size": "tools",
        "system": "instructions",
    }

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if sum(isinstance(tool, ImageTool) for tool in self.tools or []) > 1:
            raise invalid("expected image_generation at most once", "tools")
        if self.chosen.needs_image and self.drawing_tool is None:
            raise invalid("needs image_generation in tools", "tool_choice")
        if self.drawing_tool is not None and self._may_call:
            raise unsupported("an answer draws pictures or calls functions; offer one of the two, or say which with tool_choice", "tools")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise invalid("needs the tool in tools", "tool_choice")
        if self.structured_outputs is not None and self.format_form() is not None:
            raise invalid("cannot be used together with structured_outputs", "text.format")
        if self.background and not self.store:
            raise invalid("needs store=true, or nobody could fetch the answer", "background")
        if self.truncation == "auto":
            raise unsupported("the context is not shortened; only 'disabled' is accepted", "truncation")
        if self.service_tier not in (None, "auto", "default"):
            raise unsupported("there is one tier; only 'auto' and 'default' are accepted", "service_tier")
        self._check_include()
        for place, tool in enumerate(self.tools or []):
            if isinstance(tool, ImageTool):
                self._check_image_tool(tool, f"tools[{place}]")
        return self

    def _check_image_tool(self, tool: ImageTool, param: str) -> None:
        if tool.partial_images and not self.stream:
            raise unsupported("partial_images needs stream=true", f"{param}.partial_images")
        self._check_drawing_model(tool, param)

    def _check_drawing_model(self, tool: ImageTool, param: str) -> None:
        if tool.model not in (None, self.model):
            raise unsupported("the model that answers draws too", f"{param}.model")

    def _check_include(self) -> None:
        for place, name in enumerate(self.include or []):
            if name not in (LOGPROBS, "reasoning.encrypted_content", "message.input_image.image_url"):
                raise unsupported(f"only '{LOGPROBS}' can be included", f"include[{place}]")

    @property
    def chosen(self) -> ChosenTools:
        """What the answer may use."""
        return chosen_tools(self.tools or [], self.tool_choice, is_parallel=self.parallel_tool_calls is not False)

    @property
    def drawing_tool(self) -> ImageTool | None:
        """The tool that draws, if it may be used."""
        return self.chosen.image

    @property
    def _may_call(self) -> bool:
        functions = self.chosen.functions
        return any(not isinstance(tool, ImageTool) for tool in self.tools or []) if functions is None else bool(functions)

    def items(self) -> list[InputItem]:
        """Return the input as items."""
        return self.input if isinstance(self.input, list) else []

    def ask(self, history: list[InputItem]) -> Ask:
        """Return what is asked after ``history``, freed of its wire format."""
        tool = self.drawing_tool
        return Ask(
            messages=self._messages(history),
            modalities=self._modalities(),
            text=replace(
                self.sampling(),
                max_tokens=self.max_output_tokens,
                logprobs=(self.top_logprobs or 0) if self.wants_logprobs else None,
            ),
            pictures=None if tool is None else tool.choices(self.max_tool_calls),
            seed=self.seed,
            thinks=self.think,
            wants_progress=self.stream and tool is not None,
            names=NAMES,
            tenant=tenant_of(self.safety_identifier or self.user),
            text_form=self._text_form(),
            tool_use=self.chosen.use(self.tools or []),
        )

    def _text_form(self) -> TextForm | None:
        if self.structured_outputs is not None:
            return self.structured_outputs.form()
        return self.format_form()

    def format_form(self) -> JsonForm | None:
        """Return what ``text.format`` says that the text must be; None when anything will do."""
        return None if self.text is None or self.text.format is None else self.text.format.form()

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or []) or self.top_logprobs is not None

    def _modalities(self) -> frozenset[Modality]:
        if self.drawing_tool is None:
            return frozenset({Modality.TEXT})
        return frozenset({Modality.IMAGE}) if self.chosen.must_use else frozenset({Modality.TEXT, Modality.IMAGE})

    def _messages(self, history: list[InputItem]) -> list[Message]:
        """Return instructions, history and input in order."""
        told = [] if self.instructions is None else [Message([TextPart(self.instructions)], "instructions")]
        placed = [(item, "previous_response_id") for item in history]
        if isinstance(self.input, str):
            return [*told, *said_in_order(placed), Message([TextPart(self.input)], "input")]
        placed += [(item, f"input[{place}]") for place, item in enumerate(self.input)]
        return [*told, *said_in_order(placed)]


class CountRequest(ResponseRequest):
    """What a response would be asked, for its prompt to be counted: fields that only bear on the answer have no effect."""

    model: Annotated[str, Field(max_length=256)] = ""

    @property
    def named_model(self) -> str | None:
        """The model that the request, or else its tool, names."""
        return self.model or next((tool.model for tool in self.tools or [] if isinstance(tool, ImageTool)), None)

    def _check_image_tool(self, tool: ImageTool, param: str) -> None:
        if self.model:
            self._check_drawing_model(tool, param)
