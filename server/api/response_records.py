"""What is kept of a response besides its answer, so that it can be fetched, listed and continued: a note beside its stream."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pydantic_core
from pydantic import BaseModel, JsonValue, TypeAdapter

from server.api.bad_requests import fitted
from server.api.response_answers import ResponseOut
from server.api.response_items import InputItem, Items
from server.api.response_listing import input_items
from server.api.response_schemas import ResponseRequest
from server.api.response_surface import ended_early, heading_of
from server.api.wire_object import WireObject
from server.errors import PreviousResponseNotFound, ResponseNotFound, StreamNotFound
from server.serving.accepting import Acceptance
from server.serving.notes import Notes
from server.serving.reading import Reading
from server.store.store import StoredEvent

NOTE = ":record"
SUCCEEDED = "200"
"""What a whole answer's only piece is called when it is one."""

objects = TypeAdapter(list[dict[str, JsonValue]])


class Record(WireObject):
    """A response before its answer, its input, and what was said before that.

    ``is_stream`` when its answer is kept event by event; servers that did not say so yet let any be read so.
    """

    is_stream: bool = True
    begun: dict[str, JsonValue]
    history: Items
    items: Items


@dataclass(frozen=True, slots=True)
class Records:
    """The records of all responses."""

    notes: Notes
    acceptance: Acceptance

    async def keep(self, reading: Reading, request: ResponseRequest, history: bytes, created: int, tenant: str) -> ResponseOut:
        """Keep the record of a response that was just accepted, unless it is not to be stored; return it as it begins.

        Who joins a response by its idempotency key finds its record kept, but for that of a client that left too early.
        """
        begun = heading_of(request, reading.stream_id, created).response
        note_id = reading.stream_id + NOTE
        if request.store and (reading.is_first or await self.notes.find(note_id, tenant) is None):
            items = json.dumps(_plain(input_items(request)))
            is_stream = json.dumps(request.stream)
            text = f'{{"is_stream": {is_stream}, "begun": {begun.model_dump_json()}, "history": {history.decode()}, "items": {items}}}'
            await self.notes.keep(note_id, tenant, text)
        return begun

    async def find(self, response_id: str, tenant: str) -> Record:
        """Return the record of a response.

        Raises:
            ResponseNotFound: there is none, or no longer, or it is somebody else's.
            StoreAway
        """
        text = await self.notes.find(response_id + NOTE, tenant)
        if text is None:
            raise _not_found(response_id)
        return fitted(pydantic_core.from_json(text), Record)

    async def delete(self, response_id: str, tenant: str) -> None:
        """Forget a response and what it was asked; one that is under way is ended first.

        Raises:
            ResponseNotFound, StoreAway: see `find`.
        """
        await self.find(response_id, tenant)
        await self.acceptance.delete(response_id, tenant)
        await self.notes.delete(response_id + NOTE)

    async def response(self, response_id: str, tenant: str) -> dict[str, JsonValue]:
        """Return a response as it stands.

        Raises:
            ResponseNotFound, StoreAway: see `find`.
        """
        record = await self.find(response_id, tenant)
        ending = await self.acceptance.ending(response_id, tenant)
        return record.begun if ending is None else _ended(ending, record)

    async def ending(self, response_id: str, tenant: str) -> StoredEvent | None:
        """Return the final piece of a stored response, which `output_of` reads; None while it is under way.

        Raises:
            ResponseNotFound, StoreAway: see `find`.
        """
        if not await self.notes.has(response_id + NOTE, tenant):
            raise _not_found(response_id)
        try:
            return await self.acceptance.ending(response_id, tenant)
        except StreamNotFound as error:
            raise _not_found(response_id) from error

    async def history(self, response_id: str, tenant: str) -> bytes:
        """Return everything said up to and in a response, as a JSON list of items.

        Raises:
            PreviousResponseNotFound: there is no such response.
            StoreAway
        """
        try:
            record = await self.find(response_id, tenant)
            ending = await self.acceptance.ending(response_id, tenant)
        except ResponseNotFound as error:
            message = f"previous_response_id: there is no response '{response_id[:64]}', or it is no longer kept."
            raise PreviousResponseNotFound(message, "previous_response_id") from error
        if ending is None:
            message = "previous_response_id: that response is still under way; fetch it until it is done."
            raise PreviousResponseNotFound(message, "previous_response_id")
        answered = objects.validate_python(_ended(ending, record)["output"])
        before = _plain([*record.history, *record.items])
        return json.dumps([*before, *(_as_input(item) for item in answered if item["type"] != "reasoning")]).encode()


def _not_found(response_id: str) -> ResponseNotFound:
    return ResponseNotFound(f"There is no response '{response_id[:64]}', or it is no longer kept.")


def _plain(items: list[InputItem]) -> list[dict[str, JsonValue]]:
    return [item.model_dump(mode="json", exclude_none=True, by_alias=True) for item in items]


class _FinalEvent(BaseModel):
    """The last event of a stream, or the error that stands for a whole answer."""

    response: dict[str, JsonValue] | None = None
    error: dict[str, JsonValue] | None = None


def output_of(ending: StoredEvent) -> list[dict[str, JsonValue]]:
    """Return the items of the response that a final piece holds, as an input has them; none where it holds an error alone."""
    final = _final(ending)
    return [] if final.response is None else [_as_input(item) for item in objects.validate_python(final.response["output"])]


def _as_input(item: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return an item of an answer without what has no effect in an input and may be a hundred times as large as the words themselves."""
    content = item.get("content")
    if not isinstance(content, list):
        return item
    return {**item, "content": [_without_logprobs(part) for part in content]}


def _without_logprobs(part: JsonValue) -> JsonValue:
    return {name: value for name, value in part.items() if name != "logprobs"} if isinstance(part, dict) else part


def _final(ending: StoredEvent) -> _FinalEvent:
    value = pydantic_core.from_json(ending.payload)
    return _FinalEvent(response=objects.validate_python([value])[0]) if ending.name == SUCCEEDED else _FinalEvent.model_validate(value)


def _ended(ending: StoredEvent, record: Record) -> dict[str, JsonValue]:
    """Return the response that a final piece holds, or that it means."""
    final = _final(ending)
    if final.response is not None:
        return final.response
    error = final.error or {}
    begun = ResponseOut.model_validate(record.begun)
    return objects.validate_python([ended_early(str(error.get("code")), str(error.get("message")), begun).model_dump(mode="json")])[0]
