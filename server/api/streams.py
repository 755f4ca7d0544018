"""``/v1/streams/{id}``: an answer read again, from any point and on any replica, or cancelled."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import BaseModel, RootModel
from starlette.requests import Request
from starlette.responses import Response

from server.api.arrivals import stream_headers
from server.api.chat_answers import ChunkOut
from server.api.event_stream import DONE, EventStream
from server.api.gate import tenant_of
from server.api.image_answers import PictureEventOut
from server.api.openapi import Operation, operation
from server.api.response_answers import EventOut
from server.errors import InvalidValue
from server.serving.accepting import Acceptance

MAX_POSITION_DIGITS = 12


class StreamEventOut(RootModel[ChunkOut | EventOut | PictureEventOut]):
    """An event as the route that began the stream sends it."""


class CancelledStream(BaseModel):
    id: str
    object: str = "stream"
    cancelled: bool = True


@dataclass(frozen=True, slots=True)
class StreamRoutes:
    """Streams by their ids."""

    acceptance: Acceptance
    keep_alive_s: float

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route(
            "/v1/streams/{stream_id}",
            self.resume,
            methods=["GET"],
            response_class=Response,
            openapi_extra=operation(Operation(event=StreamEventOut, last=DONE)),
        )
        router.add_api_route("/v1/streams/{stream_id}", self.cancel, methods=["DELETE"])
        return router

    async def resume(self, request: Request, stream_id: str) -> Response:
        """Send a stream's events after ``Last-Event-ID`` or ``starting_after``, from the first one if neither is given.

        After the last one there is nothing, which tells a browser not to ask again.
        """
        after, tenant = position(request), tenant_of(request).name
        ending = await self.acceptance.ending(stream_id, tenant)
        if ending is not None and ending.sequence <= after:
            return Response(status_code=204)
        reading = await self.acceptance.resume(stream_id, after, tenant)
        return EventStream(reading, stream_headers(reading), self.keep_alive_s)

    async def cancel(self, request: Request, stream_id: str) -> CancelledStream:
        """End a stream, wherever it is worked on."""
        await self.acceptance.cancel(stream_id, tenant_of(request).name)
        return CancelledStream(id=stream_id)


def position(request: Request) -> int:
    """Return the sequence number after which a client wants to read; a browser's header beats the address it began with.

    Raises:
        InvalidValue: it is no number.
    """
    given = request.headers.get("last-event-id") or request.query_params.get("starting_after") or "0"
    if not given.isdecimal() or not given.isascii() or len(given) > MAX_POSITION_DIGITS:
        raise InvalidValue("starting_after: expected the id of an event of this stream, a whole number.", "starting_after")
    return int(given)
