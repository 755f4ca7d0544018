"""Turns requests away while there is no room for them, before anything of them is routed, checked or prepared.

A flood must cost the engine as little as it can: to refuse here takes a small part of the work that a request takes which is read in full.
Who asks again for an answer under way, by an idempotency key, always passes. What passes is judged once more, by all it says, further in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.arrivals import deadline_s
from server.api.errors import error_response
from server.errors import InvalidValue, Overloaded, PlaitError
from server.metrics import Metrics
from server.serving.room import Room, Want

CHAT = "/v1/chat/completions"
DRAWING = frozenset({"/v1/images/generations", "/v1/images/edits"})
GUARDED = DRAWING | {CHAT, "/v1/responses"}
GLANCE_BYTES = 64 << 10
"""Larger bodies are not looked at: reading them is what shall be saved."""


class Turnstile:
    """Lets requests in while there is ``room``; ``routes`` are those of the application."""

    def __init__(self, app: ASGIApp, room: Room, routes: Sequence[Route], metrics: Metrics) -> None:
        self._app = app
        self._room = room
        self._metrics = metrics
        self._routes = {route.path.encode("ascii"): route for route in routes if route.path in GUARDED}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["raw_path"]) if scope["method"] == "POST" else None
        refusals = None if route is None else self._refusals(Headers(scope=scope))
        if route is None or refusals is None:
            await self._app(scope, receive, send)
            return
        glanced = _Glanced(receive)
        refusal = await _refusal(refusals, route.path, Headers(scope=scope), glanced)
        if refusal is None:
            await self._app(scope, glanced.receive, send)
            return
        scope["route"] = route
        self._metrics.observe_rejection(refusal)
        await error_response(refusal)(scope, receive, send)

    def _refusals(self, headers: Headers) -> _Refusals | None:
        """Return why words and why pictures are refused just now; None when neither is."""
        if "idempotency-key" in headers:
            return None
        try:
            patience_s = deadline_s(headers.get("x-request-timeout"))
        except InvalidValue:
            return None
        words, pictures = (self._room.refusal(Want(draws, deadline_s=patience_s)) for draws in (False, True))
        return _Refusals(words, pictures) if words or pictures else None


@dataclass(frozen=True, slots=True)
class _Refusals:
    """Why a request is refused, by what it asks for."""

    words: Overloaded | None
    pictures: Overloaded | None

    def of_either(self) -> Overloaded | None:
        """Return the refusal of a request of which only this is known, that it cannot be done whatever it asks for."""
        both = [refusal for refusal in (self.words, self.pictures) if refusal is not None]
        return max(both, key=lambda refusal: refusal.retry_after_s or 0.0) if len(both) == 2 else None


class _Glance(msgspec.Struct):
    """All that a refusal needs of a chat's body."""

    modalities: list[str] | None = None


class _Glanced:
    """Looks at the first message of a body and hands it on to whoever reads it afterwards."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._first: Message | None = None

    async def first(self) -> Message:
        """Return the first message.

        Raises:
            PlaitError: the body is not taken.
        """
        self._first = await self._receive()
        return self._first

    async def receive(self) -> Message:
        """Return the next message of the whole body."""
        message, self._first = self._first, None
        return await self._receive() if message is None else message


async def _refusal(refusals: _Refusals, path: str, headers: Headers, body: _Glanced) -> PlaitError | None:
    """Return why this request is refused; None if it may be one that there is room for."""
    if path in DRAWING:
        return refusals.pictures
    length = headers.get("content-length", "")
    if path != CHAT or not length.isdecimal() or int(length) > GLANCE_BYTES:
        return refusals.of_either()
    try:
        message = await body.first()
        modalities = msgspec.json.decode(message.get("body", b""), type=_Glance).modalities
    except msgspec.MsgspecError:
        return refusals.of_either()
    except PlaitError as error:
        return error
    return refusals.pictures if modalities == ["image"] else refusals.words
