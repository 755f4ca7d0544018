"""``/v1/responses``: begun, fetched, streamed again from any point, cancelled, deleted, and their input listed."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Generic, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel, JsonValue
from starlette.requests import Request
from starlette.responses import Response

from server.api.arrivals import Doorway, json_body, stream_headers, wants_ids
from server.api.bad_requests import fitted, parsed, read_body
from server.api.disconnects import CLIENT_GONE, unless_gone
from server.api.event_stream import EventStream
from server.api.gate import tenant_of
from server.api.openapi import Operation, operation
from server.api.response_answers import CountOut, EventOut, ResponseOut
from server.api.response_listing import ItemListOut, ListedInput, ListQuery
from server.api.response_records import Records
from server.api.response_references import References, put_in
from server.api.response_schemas import CountRequest, ResponseRequest
from server.api.response_surface import ResponseSurface, envelope, items_of
from server.api.streams import MAX_POSITION_DIGITS
from server.api.whole_answer import whole_response
from server.errors import InvalidValue, RouteNotFound
from server.serving.asks import Ask

RequestT = TypeVar("RequestT", bound=ResponseRequest)

TRUE = frozenset({"1", "true", "True"})
NO_HISTORY = b"[]"


class DeletedResponse(BaseModel):
    id: str
    object: str = "response"
    deleted: bool = True


@dataclass(frozen=True, slots=True)
class Read(Generic[RequestT]):
    """A request with the items that it only named put in, and, as JSON, what was said before it."""

    body: bytes
    request: RequestT
    history: bytes


@dataclass(frozen=True, slots=True)
class ResponseRoutes:
    """The Responses API."""

    doorway: Doorway
    surface: ResponseSurface
    records: Records
    references: References

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        one = "/v1/responses/{response_id}"
        begun = operation(Operation(ResponseRequest, ResponseOut, EventOut))
        counted = operation(Operation(CountRequest, CountOut, model_name=self.surface.model_name))
        read = operation(Operation(answer=ResponseOut, event=EventOut))
        router.add_api_route("/v1/responses", self.create, methods=["POST"], response_class=Response, openapi_extra=begun)
        router.add_api_route("/v1/responses/input_tokens", self.count, methods=["POST"], response_class=Response, openapi_extra=counted)
        router.add_api_route("/v1/responses/compact", self.compact, methods=["POST"], response_class=Response, include_in_schema=False)
        router.add_api_route(one, self.retrieve, methods=["GET"], response_class=Response, openapi_extra=read)
        router.add_api_route(one, self.delete, methods=["DELETE"])
        router.add_api_route(
            f"{one}/cancel", self.cancel, methods=["POST"], response_class=Response, openapi_extra=operation(Operation(answer=ResponseOut))
        )
        router.add_api_route(f"{one}/input_items", self.input_items, methods=["GET"])
        return router

    async def create(self, request: Request) -> Response:
        """Begin a response: answered whole, streamed, or left to go on by itself."""
        tenant, created = tenant_of(request).name, int(time.time())
        read = await self._read(request, ResponseRequest)
        wanted = read.request
        reading = await self.doorway.accept(request, self.surface, envelope(read.body, read.history), is_background=wanted.background)
        if reading is None:
            return Response(status_code=CLIENT_GONE)
        with ExitStack() as undo:
            undo.callback(reading.close)
            begun = await self.records.keep(reading, wanted, read.history, created, tenant)
            undo.pop_all()
        headers = stream_headers(reading)
        if wanted.stream:
            return EventStream(reading, headers, self.doorway.keep_alive_s, has_ids=wants_ids(request))
        if not wanted.background:
            return await whole_response(reading, headers, request)
        reading.close()
        return Response(begun.model_copy(update={"status": "queued"}).model_dump_json(), 200, headers, "application/json")

    async def count(self, request: Request) -> Response:
        """Say how many tokens a response would read; nothing is answered or kept."""
        read = await self._read(request, CountRequest)
        self.surface.check_model(read.request.named_model or self.surface.model_name)
        ask = await asyncio.to_thread(_ask_of, read)
        num_tokens = await unless_gone(self.doorway.acceptance.num_prompt_tokens(ask, tenant_of(request)), request.receive)
        if num_tokens is None:
            return Response(status_code=CLIENT_GONE)
        return Response(CountOut(input_tokens=num_tokens).model_dump_json(), media_type="application/json")

    async def _read(self, request: Request, schema: type[RequestT]) -> Read[RequestT]:
        """Return what a body says."""
        body, tenant = await json_body(request), tenant_of(request).name
        wanted = await read_body(body, schema)
        named = await self.references.found(body, wanted.items(), tenant)
        if named:
            body = await asyncio.to_thread(put_in, body, named)
            wanted = await read_body(body, schema)
        previous = wanted.previous_response_id
        history = NO_HISTORY if previous is None else await self.records.history(previous, tenant)
        return Read(body, wanted, history)

    async def compact(self) -> Response:
        """Say that there is no such thing here; without this, the address would be taken for a response called compact.

        Raises:
            RouteNotFound: always.
        """
        raise RouteNotFound("This server does not compact conversations; send the items that should be read.")

    async def retrieve(self, request: Request, response_id: str) -> Response:
        """Return a response as it stands, or with ``stream=true`` its events after ``starting_after``.

        Raises:
            InvalidValue: its events are wanted, and it was not created as a stream.
        """
        tenant = tenant_of(request).name
        if request.query_params.get("stream") not in TRUE:
            return _json(await self.records.response(response_id, tenant))
        if not (await self.records.find(response_id, tenant)).is_stream:
            raise InvalidValue("stream: this response was created without stream, and is kept without events; leave it out.", "stream")
        reading = await self.doorway.acceptance.resume(response_id, _position(request), tenant)
        return EventStream(reading, stream_headers(reading), self.doorway.keep_alive_s)

    async def cancel(self, request: Request, response_id: str) -> Response:
        """End a response that is under way; return it as it stands then."""
        tenant = tenant_of(request).name
        await self.records.find(response_id, tenant)
        await self.doorway.acceptance.cancel(response_id, tenant)
        reading = await self.doorway.acceptance.resume(response_id, 0, tenant)
        try:
            await reading.final()
        finally:
            reading.close()
        return _json(await self.records.response(response_id, tenant))

    async def delete(self, request: Request, response_id: str) -> DeletedResponse:
        """Forget a response."""
        await self.records.delete(response_id, tenant_of(request).name)
        return DeletedResponse(id=response_id)

    async def input_items(self, request: Request, response_id: str) -> ItemListOut:
        """List what a response was asked."""
        record = await self.records.find(response_id, tenant_of(request).name)
        return ListedInput(response_id.partition("_")[2], record.items).page(_list_query(request))


def _ask_of(read: Read[CountRequest]) -> Ask:
    return read.request.ask(items_of(parsed(read.history)))


def _json(value: dict[str, JsonValue]) -> Response:
    return Response(json.dumps(value), media_type="application/json")


def _position(request: Request) -> int:
    """Return how many events of the stream are left out; they are numbered from 0 here and from 1 in the stream.

    Raises:
        InvalidValue: it is no number of an event.
    """
    given = request.query_params.get("starting_after")
    if given is None:
        return 0
    if not given.isdecimal() or not given.isascii() or len(given) > MAX_POSITION_DIGITS:
        raise InvalidValue("starting_after: expected the sequence_number of an event, a whole number.", "starting_after")
    return int(given) + 1


def _list_query(request: Request) -> ListQuery:
    given: dict[str, object] = dict(request.query_params)
    limit = request.query_params.get("limit")
    if limit is not None and limit.isdecimal() and limit.isascii():
        given["limit"] = int(limit[:9])
    known = {name: value for name, value in given.items() if name not in ("include", "include[]")}
    return fitted(known, ListQuery)
