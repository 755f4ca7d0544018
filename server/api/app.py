"""Puts the routes together into one ASGI application."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from server.access.keys import KeyRing
from server.api.disconnects import CLIENT_GONE
from server.api.errors import error_response
from server.api.gate import Gate
from server.api.middleware import Edge
from server.api.openapi import complete_document
from server.api.request_body import BodyBounds
from server.api.turnstile import Turnstile
from server.errors import InvalidRequest, MethodNotAllowed, PlaitError, RouteNotFound
from server.metrics import Metrics
from server.serving.room import Room

MAX_PATH_CHARS = 64
LIKENESS = 0.7
"""How alike an address must be to what was asked for to be named, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Door:
    """Who is let in: those with one of the ``keys``, if there are any, while there is ``room``, if that has a bound.

    ``public_paths`` need no key, nor do the probes.
    """

    keys: KeyRing
    public_paths: Sequence[str] = ()
    room: Room | None = None


def build_app(routers: Sequence[APIRouter], metrics: Metrics, version: str, max_body_bytes: int, door: Door) -> ASGIApp:
    """Return the application: the routes inside, the door round them, errors and limits round that."""
    app = FastAPI(
        title="Plait",
        version=version,
        summary="Words and pictures in, words and pictures out.",
        docs_url=None,
        redoc_url=None,
        # A redirect would go to whatever host the client's own header names.
        redirect_slashes=False,
    )
    for router in routers:
        app.include_router(router)
    complete_document(app.openapi())
    routes = [route for router in routers for route in router.routes if isinstance(route, Route)]
    refusals = _Refusals(metrics, routes)
    app.add_exception_handler(PlaitError, refusals.answer)
    app.add_exception_handler(HTTPException, refusals.answer)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_defect)
    inside = app if door.room is None else Turnstile(app, door.room, routes, metrics)
    return Edge(Gate(inside, door.keys, door.public_paths), metrics, BodyBounds(max_body_bytes))


async def _answer_nobody(request: Request, error: Exception) -> Response:
    """Answer a client that left in the middle of its body, which is no failure of anybody's."""
    return Response(status_code=CLIENT_GONE)


async def _answer_defect(request: Request, error: Exception) -> Response:
    """Answer when the server is at fault; the error goes on to the edge, which logs it under the request's id."""
    return error_response(PlaitError("The server failed on this request; its log names the cause under the x-request-id of this answer."))


@dataclass(frozen=True, slots=True)
class _Refusals:
    """Answers and counts what is refused."""

    metrics: Metrics
    routes: Sequence[Route]

    async def answer(self, request: Request, error: Exception) -> Response:
        refused = error if isinstance(error, PlaitError) else self._as_plait_error(error, request.url.path)
        self.metrics.observe_rejection(refused)
        response = error_response(refused)
        if isinstance(refused, MethodNotAllowed):
            response.headers["allow"] = ", ".join(self._methods_of(request.url.path))
        return response

    def _as_plait_error(self, error: Exception, path: str) -> PlaitError:
        """Return the catalogue's error for what the router refuses by itself."""
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return RouteNotFound(f"There is nothing at this address{self._nearest(path)}; see /openapi.json for what there is.")
        if error.status_code == 405:
            return MethodNotAllowed("This address does not take that method; see /openapi.json.")
        return InvalidRequest("The request cannot be read.")

    def _nearest(self, path: str) -> str:
        """Name the address that was probably meant: the one without a slash too many, or with the ``/v1`` that was left out."""
        known = [route.path for route in self.routes if route.include_in_schema]
        nearest = difflib.get_close_matches(path[:MAX_PATH_CHARS], known, n=1, cutoff=LIKENESS)
        return f", the nearest one is {nearest[0]}" if nearest else ""

    def _methods_of(self, path: str) -> list[str]:
        """Return the methods that an address takes: each may be a route of its own, where the router names those of one.

        One that stands for itself is not taken for an id in the place of which it stands.
        """
        own = [route for route in self.routes if route.path == path]
        taking = own or [route for route in self.routes if route.path_regex.match(path)]
        return sorted({method for route in taking for method in route.methods or ()})
