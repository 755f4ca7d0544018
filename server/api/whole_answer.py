"""Answers that do not stream: one piece at the end of their stream, which carries the HTTP status as its name."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from server.api.disconnects import CLIENT_GONE, unless_gone
from server.api.errors import RETRY_AFTER_S, error_json, retry_headers, status_of
from server.errors import PlaitError
from server.serving.reading import Reading
from server.serving.surfaces import Piece

SERVICE_UNAVAILABLE = 503


def whole_answer(body: str) -> Piece:
    """Return the only piece of an answer that succeeded."""
    return Piece(body, name="200", is_final=True)


def failed_answer(error: PlaitError) -> Piece:
    """Return the only piece of an answer that failed."""
    return Piece(error_json(error), name=str(status_of(error)), is_final=True)


async def whole_response(reading: Reading, headers: dict[str, str], request: Request) -> Response:
    """Wait for the answer and return it; nobody waits any more when the client has gone.

    Raises:
        StreamNotFound, StoreAway: the answer is out of reach.
    """
    try:
        final = await unless_gone(reading.final(), request.receive)
    finally:
        reading.close()
    if final is None:
        return Response(status_code=CLIENT_GONE)
    status = int(final.name) if final.name.isdecimal() else 200
    if status >= 400:
        headers = {**headers, "x-should-retry": "true" if status == SERVICE_UNAVAILABLE else "false"}
    if status == SERVICE_UNAVAILABLE:
        headers = {**headers, **retry_headers(RETRY_AFTER_S)}
    return Response(final.payload, status, headers, "application/json")
