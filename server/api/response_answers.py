"""The Responses API's answers as clients get them: the response, its items, and the events by which they grow."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, JsonValue

from server.api.chat_answers import IfSaid
from server.api.image_answers import FormatOut, QualityOut

StatusOut = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ItemStatusOut = Literal["in_progress", "completed", "incomplete"]


class TopLogprobOut(BaseModel):
    token: str
    bytes: list[int]
    logprob: float


class LogprobOut(TopLogprobOut):
    top_logprobs: list[TopLogprobOut]


class TextOut(BaseModel):
    """Words of a message."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[str] = Field(default_factory=list)
    logprobs: list[LogprobOut] = Field(default_factory=list)


class ThoughtOut(BaseModel):
    """Words of a plan."""

    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


PartOut = TextOut | ThoughtOut


class MessageOut(BaseModel):
    """Words between two pictures, or before the first, or after the last."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: ItemStatusOut
    content: list[TextOut]


class ReasoningOut(BaseModel):
    """A plan made before a picture."""

    id: str
    type: Literal["reasoning"] = "reasoning"
    status: ItemStatusOut
    summary: list[str] = Field(default_factory=list)
    content: list[ThoughtOut]


class PictureCallOut(BaseModel):
    """A picture; ``result`` is its file in base64 once it is there."""

    id: str
    type: Literal["image_generation_call"] = "image_generation_call"
    status: Literal["in_progress", "generating", "completed", "failed"]
    result: str | None = None
    background: IfSaid[Literal["opaque"]] = None
    output_format: IfSaid[FormatOut] = None
    quality: IfSaid[QualityOut | Literal["auto"]] = None
    size: IfSaid[str] = None


class CallOut(BaseModel):
    """A function that is to be called; ``arguments`` is JSON."""

    id: str
    type: Literal["function_call"] = "function_call"
    status: ItemStatusOut
    call_id: str
    name: str
    arguments: str


ItemOut = MessageOut | ReasoningOut | PictureCallOut | CallOut


class ErrorOut(BaseModel):
    code: str
    message: str


class IncompleteOut(BaseModel):
    reason: Literal["max_output_tokens"]


class InputTokensOut(BaseModel):
    cached_tokens: int
    cache_write_tokens: int = 0
    text_tokens: int
    image_tokens: int


class OutputTokensOut(BaseModel):
    reasoning_tokens: int
    text_tokens: int
    image_tokens: int


class ResponseUsageOut(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensOut
    output_tokens: int
    output_tokens_details: OutputTokensOut
    total_tokens: int


class CountOut(BaseModel):
    """How many tokens a response would read."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class ReasoningOptionsOut(BaseModel):
    effort: str | None = None
    summary: str | None = None


class TextOptionsOut(BaseModel):
    format: dict[str, JsonValue]
    verbosity: Literal["low", "medium", "high"] = "medium"


class ResponseOut(BaseModel):
    """The response; while it grows, ``output`` stays empty and ``usage`` null."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: StatusOut
    background: bool
    error: ErrorOut | None = None
    incomplete_details: IncompleteOut | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[ItemOut] = Field(default_factory=list)
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningOptionsOut
    safety_identifier: str | None
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float
    text: TextOptionsOut
    tool_choice: JsonValue
    tools: list[dict[str, JsonValue]]
    top_logprobs: int
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsageOut | None = None
    user: str | None
    metadata: dict[str, str]


class EventOut(BaseModel):
    """What every event has: its name, and its number from 0 without gaps."""

    type: str
    sequence_number: int


class ResponseEventOut(EventOut):
    response: ResponseOut


class ItemEventOut(EventOut):
    output_index: int
    item: ItemOut


class InsideItemOut(EventOut):
    """An event of a picture on its way."""

    item_id: str
    output_index: int


class PartialPictureOut(InsideItemOut):
    """A rough picture: small, and WebP whatever the picture will be."""

    partial_image_index: int
    partial_image_b64: str
    background: Literal["opaque"] = "opaque"
    output_format: Literal["webp"] = "webp"
    quality: QualityOut | Literal["auto"]
    size: str


class InsidePartOut(InsideItemOut):
    content_index: int


class PartEventOut(InsidePartOut):
    part: PartOut


class TextDeltaOut(InsidePartOut):
    delta: str
    logprobs: list[LogprobOut]


class TextDoneOut(InsidePartOut):
    text: str
    logprobs: list[LogprobOut]


class ThoughtDeltaOut(InsidePartOut):
    delta: str


class ThoughtDoneOut(InsidePartOut):
    text: str


class ArgumentsDeltaOut(InsideItemOut):
    delta: str


class ArgumentsDoneOut(InsideItemOut):
    name: str
    arguments: str
