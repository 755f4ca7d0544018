"""``POST /tokenize`` and ``POST /detokenize``, in the shape that vLLM gave them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from fastapi import APIRouter
from pydantic import BaseModel, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from server.api.arrivals import json_body
from server.api.bad_requests import read_body
from server.api.message_schemas import MAX_TEXT_CHARS, AnyMessage, Text
from server.api.openapi import Operation, operation
from server.api.wire_object import WireObject, invalid
from server.errors import InvalidValue, ModelNotFound
from server.serving.asks import Ask, Message, TextPart
from server.serving.token_counts import TokenCounter

MAX_TOKENS = 1_000_000
MAX_OTHER_VALUES = 1000
"""Beside the tokens there may be fewer, but a few too many tokens are refused by their number."""

ModelName = Annotated[str, Field(max_length=256)]


class TokenizeRequest(WireObject):
    """A text, with its begin and end unless ``add_special_tokens`` is false, or a conversation in words."""

    model: ModelName | None = None
    prompt: Text | None = None
    messages: Annotated[list[AnyMessage], Field(min_length=1, max_length=512)] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _has_one_text(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise invalid("expected either prompt or messages", "prompt")
        return self


class DetokenizeRequest(WireObject):
    model: ModelName | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(max_length=MAX_TOKENS)]

    MAX_VALUES: ClassVar[int] = MAX_TOKENS + MAX_OTHER_VALUES


class TokensOut(BaseModel):
    """``token_strs`` only when asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class PromptOut(BaseModel):
    prompt: str


@dataclass(frozen=True, slots=True)
class TokenRoutes:
    """Tokens of one model; nothing is generated."""

    counter: TokenCounter

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        there, back = operation(Operation(TokenizeRequest, TokensOut)), operation(Operation(DetokenizeRequest, PromptOut))
        router.add_api_route("/tokenize", self.tokenize, methods=["POST"], response_class=Response, openapi_extra=there)
        router.add_api_route("/detokenize", self.detokenize, methods=["POST"], response_class=Response, openapi_extra=back)
        return router

    async def tokenize(self, request: Request) -> Response:
        """Return the tokens of a text or a conversation."""
        asked = await read_body(await json_body(request), TokenizeRequest)
        self._check_model(asked.model)
        # In a thread, as all texts are read: a long one takes seconds, and the event loop has other streams to serve.
        return await asyncio.to_thread(self._tokens, asked)

    def _tokens(self, asked: TokenizeRequest) -> Response:
        if asked.messages is None:
            tokens = self.counter.of_text(asked.prompt or "", with_markers=asked.add_special_tokens)
        else:
            messages = [message.message(f"messages[{place}]") for place, message in enumerate(asked.messages)]
            _check_length(messages)
            tokens = self.counter.of_conversation(Ask(messages))
        spellings = self.counter.spellings(tokens) if asked.return_token_strs else None
        return _json(TokensOut(count=len(tokens), max_model_len=self.counter.max_tokens, tokens=tokens, token_strs=spellings))

    async def detokenize(self, request: Request) -> Response:
        """Return the text that tokens spell."""
        asked = await read_body(await json_body(request), DetokenizeRequest)
        self._check_model(asked.model)
        return await asyncio.to_thread(self._text, asked)

    def _text(self, asked: DetokenizeRequest) -> Response:
        return _json(PromptOut(prompt=self.counter.text_of(asked.tokens)))

    def _check_model(self, name: str | None) -> None:
        served = self.counter.model.name
        if name not in (None, served):
            raise ModelNotFound(f"model: this server serves '{served}' and no other.", "model")


def _check_length(messages: Sequence[Message]) -> None:
    num_chars = sum(len(part.text) for message in messages for part in message.parts if isinstance(part, TextPart))
    if num_chars > MAX_TEXT_CHARS:
        raise InvalidValue(f"messages: have {num_chars} characters together; at most {MAX_TEXT_CHARS} are read.", "messages")


def _json(body: BaseModel) -> Response:
    return Response(body.model_dump_json(), media_type="application/json")
