"""The input of ``POST /v1/responses``: what was said so far, in every shape that our own output has, and OpenAI's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from server.api.message_schemas import MAX_PARTS, MAX_URL_CHARS, CacheBreakpoint, Text
from server.api.tool_schemas import ToolName
from server.api.wire_object import WireObject, invalid
from server.serving.asks import Message, PicturePart, TextPart
from server.serving.picture_links import address_of
from server.serving.tools import past_call, past_result

MAX_ITEMS = 1024
MAX_ID_CHARS = 128
NO_NAMESPACE = "functions are known by their names alone"

ItemId = Annotated[str, Field(max_length=MAX_ID_CHARS)]
Status = Literal["in_progress", "completed", "incomplete", "generating", "failed"]
Base64 = Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARS)]


class InputText(WireObject):
    """Words of the user; ``output_text`` is what the model wrote, as it came."""

    type: Literal["input_text", "output_text", "reasoning_text", "summary_text"]
    text: Text
    annotations: Annotated[list[object], Field(max_length=0)] | None = None
    logprobs: list[object] | None = None
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class InputImage(WireObject):
    """A picture, by its address or, where it is one of our own, its id.

    ``detail`` has no effect: every picture is read at the one resolution that the model takes.
    """

    type: Literal["input_image"]
    image_url: Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARS)] | None = None
    file_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None
    prompt_cache_breakpoint: CacheBreakpoint | None = None

    @model_validator(mode="after")
    def _names_one_picture(self) -> Self:
        if (self.image_url is None) == (self.file_id is None):
            raise invalid("expected either image_url or file_id", "image_url")
        return self


def _kind_of_part(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ("input_text", "output_text"):
        return "(text)"
    return "(image)" if kind == "input_image" else None


InputPart = Annotated[
    Annotated[InputText, Tag("(text)")] | Annotated[InputImage, Tag("(image)")],
    Discriminator(
        _kind_of_part,
        custom_error_type="invalid_value",
        custom_error_message="expected a part of type 'input_text', 'output_text' or 'input_image'",
    ),
]


def _kind_of_content(value: object) -> str | None:
    if isinstance(value, str):
        return "(string)"
    return "(parts)" if isinstance(value, list) else None


InputContent = Annotated[
    Annotated[Text, Tag("(string)")] | Annotated[list[InputPart], Field(max_length=MAX_PARTS), Tag("(parts)")],
    Discriminator(_kind_of_content, custom_error_type="invalid_value", custom_error_message="expected a string or a list of parts"),
]


class MessageItem(WireObject):
    """What somebody said."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: InputContent
    id: ItemId | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None

    def message(self, param: str) -> Message | None:
        """Return the message in order; ``param`` is where it stood."""
        if isinstance(self.content, str):
            return Message([TextPart(self.content)], param)
        parts = [_part(part, f"{param}.content[{place}]") for place, part in enumerate(self.content)]
        return Message(parts, param)


def _part(part: InputText | InputImage, param: str) -> TextPart | PicturePart:
    if isinstance(part, InputText):
        return TextPart(part.text)
    if part.image_url is not None:
        return PicturePart(part.image_url, f"{param}.image_url")
    return PicturePart(address_of(part.file_id or ""), f"{param}.file_id")


class ReferenceItem(WireObject):
    """An item of a stored answer, by its id; `server.api.response_references` puts the item in its place before anybody reads it."""

    type: Literal["item_reference"] = "item_reference"
    id: Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]

    def message(self, param: str) -> Message | None:
        """Fail: what is read names nothing any more."""
        raise AssertionError("references are put in before a request is opened")


class PictureItem(WireObject):
    """A picture the model drew earlier: as it came, or its id alone, which is a reference."""

    type: Literal["image_generation_call"]
    result: Base64 | None = None
    id: ItemId | None = None
    status: Status | None = None
    action: Literal["generate", "edit", "auto"] | None = None
    background: Literal["opaque", "auto"] | None = None
    output_format: Literal["png", "webp", "jpeg"] | None = None
    quality: Annotated[str, Field(max_length=16)] | None = None
    size: Annotated[str, Field(max_length=16)] | None = None
    revised_prompt: Text | None = None

    REFUSED: ClassVar[dict[str, str]] = {
        "error": "a picture that could not be drawn cannot be read; leave the item out",
        "svg_usage": "this server draws no SVG",
    }

    @model_validator(mode="after")
    def _is_there_or_named(self) -> Self:
        if self.result is None and not self.id:
            raise invalid("expected the picture in base64, or in its place the id of one in a stored response", "result")
        return self

    def message(self, param: str) -> Message | None:
        """Return the picture as something said; the bytes tell their format themselves."""
        assert self.result is not None, "references are put in before a request is opened"
        return Message([PicturePart(f"data:image/png;base64,{self.result}", f"{param}.result")], param)


class ReasoningItem(WireObject):
    """A plan the model made earlier: accepted because answers have it, and left out, since plans are not part of the history."""

    type: Literal["reasoning"]
    summary: Annotated[list[InputText], Field(max_length=MAX_PARTS)] | None = None
    content: Annotated[list[InputText], Field(max_length=MAX_PARTS)] | None = None
    encrypted_content: Text | None = None
    id: ItemId | None = None
    status: Status | None = None

    def message(self, param: str) -> Message | None:
        """Return nothing."""
        return None


class CallItem(WireObject):
    """A function the model called earlier."""

    type: Literal["function_call"]
    call_id: Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]
    name: ToolName
    arguments: Text
    id: ItemId | None = None
    status: Status | None = None
    is_async: Literal[False] | None = Field(default=None, alias="async")

    REFUSED: ClassVar[dict[str, str]] = {
        "async_": "is spelled async",
        "namespace": NO_NAMESPACE,
        "caller": "functions are called by the model alone",
        "created_by": "functions are called by the model alone",
    }

    def message(self, param: str) -> Message | None:
        """Return the call as the model wrote it."""
        return Message([past_call(self.name, self.arguments)], param)


class CallOutputItem(WireObject):
    """What a function answered, in words and pictures.

    ``call_id`` and ``name`` have no effect: answers are read in the order in which they stand.
    """

    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)] | None = None
    output: InputContent
    name: Annotated[str, Field(max_length=MAX_ID_CHARS)] | None = None
    id: ItemId | None = None
    status: Status | None = None

    REFUSED: ClassVar[dict[str, str]] = {
        "namespace": NO_NAMESPACE,
        "caller": "functions are called by the model alone",
        "created_by": "functions are called by the model alone",
    }

    def message(self, param: str) -> Message | None:
        """Return the answer: its words, then its pictures."""
        if isinstance(self.output, str):
            return Message([past_result(self.output)], param)
        words = "\n".join(part.text for part in self.output if isinstance(part, InputText))
        pictures = [_part(part, f"{param}.output[{place}]") for place, part in enumerate(self.output) if isinstance(part, InputImage)]
        return Message([past_result(words), *pictures], param)


KINDS = {
    None: "(message)",
    "message": "(message)",
    "image_generation_call": "(picture)",
    "reasoning": "(reasoning)",
    "function_call": "(call)",
    "function_call_output": "(output)",
    "item_reference": "(reference)",
}


def _kind_of_item(value: object) -> str | None:
    if not isinstance(value, dict):
        return None
    if [name for name, given in value.items() if given is not None] == ["id"]:
        return "(reference)"
    kind = value.get("type")
    return KINDS.get(kind) if kind is None or isinstance(kind, str) else None


InputItem = Annotated[
    Annotated[MessageItem, Tag("(message)")]
    | Annotated[PictureItem, Tag("(picture)")]
    | Annotated[ReasoningItem, Tag("(reasoning)")]
    | Annotated[CallItem, Tag("(call)")]
    | Annotated[CallOutputItem, Tag("(output)")]
    | Annotated[ReferenceItem, Tag("(reference)")],
    Discriminator(
        _kind_of_item,
        custom_error_type="invalid_value",
        custom_error_message=(
            "expected an item of type 'message', 'image_generation_call', 'reasoning', 'function_call', 'function_call_output' or "
            "'item_reference'; this server keeps no others"
        ),
    ),
]
Items = Annotated[list[InputItem], Field(max_length=MAX_ITEMS)]


def named_id(item: InputItem) -> str | None:
    """Return the id of the item that stands where only its id was sent; None for what is there itself."""
    match item:
        case ReferenceItem():
            return item.id
        case PictureItem(result=None):
            return item.id
        case _:
            return None


def said_in_order(placed: Sequence[tuple[InputItem, str]]) -> list[Message]:
    """Return what items say, each with where it stood. Calls belong to the turn of the model in which they were made."""
    messages: list[Message] = []
    is_models_turn = False
    for item, param in placed:
        message = item.message(param)
        if message is None:
            continue
        if isinstance(item, CallItem) and is_models_turn:
            messages[-1] = Message([*messages[-1].parts, *message.parts], messages[-1].param)
        else:
            messages.append(message)
        is_models_turn = isinstance(item, CallItem) or (isinstance(item, MessageItem) and item.role == "assistant")
    return messages
