"""``POST /v1/chat/completions``."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from server.api.bad_requests import read_body
from server.api.chat_schemas import ChatRequest
from server.api.chat_writer import Heading, write_chunks, write_completion
from server.api.event_stream import EventStream, disconnected
from server.errors import ModelNotFound, UnsupportedMediaType
from server.serving.generation import Generation, GenerationService

CLIENT_GONE = 499
"""Nobody reads this answer; the status is for logs and metrics."""

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class ChatRoutes:
    """The chat endpoint over one generation service, for the model called ``model_name``."""

    service: GenerationService
    model_name: str
    keep_alive_s: float

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/v1/chat/completions", self.complete, methods=["POST"], response_class=Response)
        return router

    async def complete(self, request: Request) -> Response:
        """Answer a chat completion, streaming or not."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise UnsupportedMediaType("The body must be JSON, with the header Content-Type: application/json.")
        chat = await read_body(await request.body(), ChatRequest)
        if chat.model not in (None, self.model_name):
            raise ModelNotFound(f"model: this server serves '{self.model_name}' and no other.", "model")
        generation = await unless_gone(self.service.begin(chat.ask()), request.receive)
        if generation is None:
            return Response(status_code=CLIENT_GONE)
        heading = self._heading(chat)
        if chat.stream:
            with_usage = chat.stream_options is not None and chat.stream_options.include_usage
            payloads = write_chunks(generation.events(), heading, with_usage=with_usage)
            return EventStream(payloads, generation.close, self.keep_alive_s)
        return await self._whole(generation, heading, request.receive)

    async def _whole(self, generation: Generation, heading: Heading, receive: Receive) -> Response:
        try:
            body = await unless_gone(write_completion(generation.events(), heading), receive)
        finally:
            generation.close()
        if body is None:
            return Response(status_code=CLIENT_GONE)
        return Response(body, media_type="application/json")

    def _heading(self, chat: ChatRequest) -> Heading:
        return Heading(
            completion_id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=self.model_name,
            num_choices=chat.n,
            with_logprobs=chat.logprobs,
            metadata=chat.metadata,
        )


async def unless_gone(work: Awaitable[AnswerT], receive: Receive) -> AnswerT | None:
    """Await ``work``; None, with the work cancelled, when the client disconnects first."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
