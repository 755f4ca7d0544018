"""Puts the routes together into one ASGI application."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from server.api.errors import error_response
from server.api.middleware import Edge
from server.errors import InvalidRequest, MethodNotAllowed, PlaitError, RouteNotFound
from server.metrics import Metrics


def build_app(routers: Sequence[APIRouter], metrics: Metrics, version: str, max_body_bytes: int) -> ASGIApp:
    """Return the application: the routes inside, errors and limits round them."""
    app = FastAPI(title="Plait", version=version, summary="Words and pictures in, words and pictures out.", docs_url=None, redoc_url=None)
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(PlaitError, _answer_plait_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    return Edge(app, metrics, max_body_bytes)


async def _answer_plait_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PlaitError)
    return error_response(error)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Answer what the router refuses by itself."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(RouteNotFound("There is nothing at this address; see /openapi.json for what there is."))
    if error.status_code == 405:
        return error_response(MethodNotAllowed("This address does not take that method; see /openapi.json."))
    return error_response(InvalidRequest("The request cannot be read."))
