"""``POST /v1/chat/completions``."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.api.arrivals import Doorway, json_body
from server.api.chat_answers import ChatCompletionOut, ChunkOut
from server.api.chat_schemas import ChatRequest
from server.api.chat_surface import ChatSurface
from server.api.event_stream import DONE
from server.api.openapi import Operation, operation


@dataclass(frozen=True, slots=True)
class ChatRoutes:
    """The chat endpoint."""

    doorway: Doorway
    surface: ChatSurface

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        described = operation(Operation(ChatRequest, ChatCompletionOut, ChunkOut, DONE, model_name=self.surface.model_name))
        router.add_api_route("/v1/chat/completions", self.complete, methods=["POST"], response_class=Response, openapi_extra=described)
        return router

    async def complete(self, request: Request) -> Response:
        """Answer a chat completion, streaming or not."""
        return await self.doorway.answer(request, self.surface, await json_body(request))
