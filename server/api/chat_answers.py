"""Chat completions as clients get them, whole and in chunks: OpenAI's shape, with pictures.

``content`` is always plain text. ``images`` are the pictures, ``content_parts`` the order of words and pictures, where a picture is named
by its place in ``images``, so that its bytes travel once. In chunks every list entry carries the ``index`` by which the official client's
stream helper merges it: texts of one index are concatenated, a picture comes once.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field

ValueT = TypeVar("ValueT")

IfSaid = Annotated[ValueT | None, Field(exclude_if=lambda value: value is None)]
"""A field that is left out, rather than null, when it says nothing."""


class ImageUrlOut(BaseModel):
    url: str


class ImageOut(BaseModel):
    """One of ``images``."""

    index: int
    type: Literal["image_url"] = "image_url"
    image_url: ImageUrlOut


class TextPartOut(BaseModel):
    index: int
    type: Literal["text"] = "text"
    text: str


class ImagePartOut(BaseModel):
    """A picture's place among the words; ``image_index`` is its index in ``images``."""

    index: int
    type: Literal["image_url"] = "image_url"
    image_index: int


PartOut = TextPartOut | ImagePartOut


class AlternativeOut(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobOut(AlternativeOut):
    top_logprobs: list[AlternativeOut]


class FunctionCallOut(BaseModel):
    """``arguments`` is JSON, as a string."""

    name: str
    arguments: str


class ToolCallOut(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCallOut


class ToolCallChunkOut(ToolCallOut):
    """A call in a stream, whole; ``index`` numbers the calls of an answer."""

    index: int


class LogprobsOut(BaseModel):
    content: list[TokenLogprobOut]
    refusal: None = None


class PromptTokensOut(BaseModel):
    cached_tokens: int = 0
    text_tokens: int
    image_tokens: int


class CompletionTokensOut(BaseModel):
    text_tokens: int
    image_tokens: int
    reasoning_tokens: int = 0


class UsageOut(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensOut
    completion_tokens_details: CompletionTokensOut


FinishReasonOut = Literal["stop", "length", "tool_calls"]


class MessageOut(BaseModel):
    """An answer; one without pictures is plain OpenAI: ``images`` and ``content_parts`` are left out."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    annotations: list[str] = Field(default_factory=list, max_length=0)
    images: IfSaid[list[ImageOut]] = None
    content_parts: IfSaid[list[PartOut]] = None
    reasoning_content: IfSaid[str] = None
    tool_calls: IfSaid[list[ToolCallOut]] = None


class ChoiceOut(BaseModel):
    index: int
    message: MessageOut
    logprobs: LogprobsOut | None
    finish_reason: FinishReasonOut


class ChatCompletionOut(BaseModel):
    """The answer to a request that does not stream."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChoiceOut]
    usage: UsageOut
    metadata: IfSaid[dict[str, str]] = None


class DeltaOut(BaseModel):
    """What is new in a chunk; fields that say nothing are left out."""

    role: IfSaid[Literal["assistant"]] = None
    content: IfSaid[str] = None
    images: IfSaid[list[ImageOut]] = None
    content_parts: IfSaid[list[PartOut]] = None
    reasoning_content: IfSaid[str] = None
    tool_calls: IfSaid[list[ToolCallChunkOut]] = None


class ChunkChoiceOut(BaseModel):
    index: int
    delta: DeltaOut
    logprobs: LogprobsOut | None = None
    finish_reason: FinishReasonOut | None = None


class ProgressOut(BaseModel):
    """Step ``step`` of ``num_steps`` of picture ``index`` of answer ``choice`` is done; with what it looks like, a small WebP, if asked."""

    choice: int
    index: int
    step: int
    num_steps: int
    partial_image_index: IfSaid[int] = None
    partial_image_b64: IfSaid[str] = None


class ChunkOut(BaseModel):
    """One event of a stream. ``image_progress`` comes alone, with no choices."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoiceOut]
    usage: IfSaid[UsageOut] = None
    image_progress: IfSaid[ProgressOut] = None
    metadata: IfSaid[dict[str, str]] = None


class CountedChunkOut(ChunkOut):
    """One event of a stream that was asked for its usage: null in every chunk but the last, which has it."""

    usage: UsageOut | None = None
