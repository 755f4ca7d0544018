"""Round every request: an id, a limit on the body, the catalogue's answer to what went wrong, one log line, one count."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.body_send import keep_send
from server.api.errors import error_response
from server.api.request_body import BodyBounds
from server.errors import PlaitError
from server.logs import KNOWN_FIELDS
from server.metrics import Metrics

logger = logging.getLogger(__name__)

CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""What a client's own x-request-id may look like to be repeated; any other is replaced."""


API_VERSION = "2020-10-01"
"""The version of OpenAI's API that answers follow; there has been one."""

PROBES = frozenset({"/livez", "/readyz", "/health", "/metrics"})
"""Asked every few seconds by machines; worth a line only when debugging."""


ARRIVED = "arrived"
"""In a request's state: when it came in, by the monotonic clock. Set by the HTTP protocol, or at the edge where another one serves."""


class Edge:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, metrics: Metrics, bounds: BodyBounds) -> None:
        self._app = app
        self._metrics = metrics
        self._bounds = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        keep_send(scope, send)
        visit = _Visit(scope, send)
        try:
            await self._app(scope, self._bounds.apply(scope, receive), visit.send)
        except Exception as error:
            logger.exception("request %s failed", visit.request_id)
            if visit.status is None:
                refused = _public(error, visit.request_id)
                self._metrics.observe_rejection(refused)
                await error_response(refused)(scope, receive, visit.send)
        finally:
            self._metrics.http_requests.labels(visit.route, str(visit.status or 0)).inc()
            level = logging.DEBUG if visit.route in PROBES else logging.INFO
            words = (scope["method"], visit.route, visit.status, visit.elapsed_ms, visit.request_id)
            logger.log(level, "%s %s %s %.1f ms %s", *words, extra=dict(zip(KNOWN_FIELDS, words, strict=True)))


class _Visit:
    """One request on its way through; puts the id on the answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        own = Headers(scope=scope).get("x-request-id", "")
        self.request_id = own if CLIENT_ID.fullmatch(own) else f"req-{uuid.uuid4().hex}"
        self.status: int | None = None
        self._scope = scope
        self._send = send
        self._started: float = scope.setdefault("state", {}).setdefault(ARRIVED, time.monotonic())

    @property
    def elapsed_ms(self) -> float:
        return 1000 * (time.monotonic() - self._started)

    @property
    def route(self) -> str:
        """The pattern that matched: one of a closed set, whatever the client asked for."""
        route = self._scope.get("route")
        return route.path if isinstance(route, Route) else "other"

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["openai-version"] = API_VERSION
            headers["openai-processing-ms"] = str(int(self.elapsed_ms))
            headers["server-timing"] = f"begin;dur={self.elapsed_ms:.1f}"
        await self._send(message)


def arrival_time(request: Request) -> float:
    """Return when the first bytes of a request were here, by the monotonic clock; its body may have come later."""
    arrived = request.scope["state"][ARRIVED]
    assert isinstance(arrived, float)
    return arrived


def _public(error: Exception, request_id: str) -> PlaitError:
    """Return what a client may know of an error nobody expected: nothing but the id to ask about."""
    if isinstance(error, PlaitError):
        return error
    return PlaitError(f"The server failed on this request; its log names the cause under {request_id}.")
