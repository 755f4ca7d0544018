"""Outermost round the application where traces are wanted: one span for each HTTP request, closed when its last byte has gone."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.body_send import keep_send
from server.tracing import Tracing


class Traced:
    """Traces every HTTP request; reads its id and status from the answer."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        keep_send(scope, send)
        status, request_id = 0, ""

        async def watched(message: Message) -> None:
            nonlocal status, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                request_id = Headers(raw=message["headers"]).get("x-request-id", "")
            await send(message)

        with self._tracing.visit(scope["method"], Headers(scope=scope).get("traceparent")) as visit:
            try:
                await self._app(scope, receive, watched)
            finally:
                route = scope.get("route")
                visit.answered(route.path if isinstance(route, Route) else "other", status, request_id)
