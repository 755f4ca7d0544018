"""Items of a request that are only named: found in the answers of stored responses and put in their place.

An item's id holds that of its response. What is put in counts as if it had been sent: the body with it is no larger than one may be, and
from there on it is an ordinary body, which any replica reads the same.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pydantic_core
from pydantic import JsonValue

from server.api.response_items import InputItem, PictureItem, named_id
from server.api.response_records import Records, output_of
from server.errors import BodyTooLarge, InvalidValue, ItemNotFound, ResponseNotFound
from server.store.store import StoredEvent

ITEM_ID = re.compile(r"(msg|rs|ig|fc)_([0-9a-f]{32})_[0-9]{1,5}")
"""An id as answers have it: its kind, its response's key, its place there."""

MAX_RESPONSES = 128
"""How many stored responses one request may name items of."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An item that stands at ``place`` of the input by its id alone."""

    place: int
    item_id: str
    response_id: str

    @property
    def param(self) -> str:
        return f"input[{self.place}].id"


@dataclass(frozen=True, slots=True)
class References:
    """Finds named items; a body may have ``max_body_bytes`` with them."""

    records: Records
    max_body_bytes: int

    async def found(self, body: bytes, items: Sequence[InputItem], tenant: str) -> dict[int, JsonValue]:
        """Return the items of ``tenant`` that a request only names, by their places in its input.

        Raises:
            ItemNotFound: there is none of that id, or its response is not stored, not done or somebody else's.
            InvalidValue: they are of too many responses.
            BodyTooLarge: the body is too large with them.
            StoreAway
        """
        by_response: dict[str, list[Reference]] = {}
        for reference in _references(items):
            by_response.setdefault(reference.response_id, []).append(reference)
        if len(by_response) > MAX_RESPONSES:
            raise InvalidValue(f"input: names items of {len(by_response)} responses; at most {MAX_RESPONSES} are looked up.", "input")
        found: dict[int, JsonValue] = {}
        num_bytes = len(body)
        for references in by_response.values():
            answered = await self._answered(references, tenant)
            num_bytes += sum(size for size, _ in answered.values())
            if num_bytes > self.max_body_bytes:
                message = f"input: with the items that it names, the body has more than {self.max_body_bytes} bytes; name fewer of them."
                raise BodyTooLarge(message, "input")
            found |= {place: item for place, (_, item) in answered.items()}
        return found

    async def _answered(self, references: Sequence[Reference], tenant: str) -> dict[int, tuple[int, JsonValue]]:
        """Return the items of one response by their places, each with how many bytes it has."""
        try:
            ending = await self.records.ending(references[0].response_id, tenant)
        except ResponseNotFound as error:
            raise _no_item(references[0]) from error
        if ending is None:
            raise _not_done(references[0])
        return await asyncio.to_thread(_picked, ending, references)


def _references(items: Sequence[InputItem]) -> list[Reference]:
    """Return what an input only names.

    Raises:
        ItemNotFound: an id that no answer can have, or that of something else than a picture where one is meant.
    """
    references: list[Reference] = []
    for place, item in enumerate(items):
        item_id = named_id(item)
        if item_id is None:
            continue
        ours = ITEM_ID.fullmatch(item_id)
        if ours is None or (isinstance(item, PictureItem) and ours.group(1) != "ig"):
            raise _no_item(Reference(place, item_id, ""))
        references.append(Reference(place, item_id, f"resp_{ours.group(2)}"))
    return references


def _picked(ending: StoredEvent, references: Sequence[Reference]) -> dict[int, tuple[int, JsonValue]]:
    by_id = {item["id"]: item for item in output_of(ending)}
    picked: dict[int, tuple[int, JsonValue]] = {}
    for reference in references:
        item = by_id.get(reference.item_id)
        if item is None:
            raise _no_item(reference)
        picked[reference.place] = (len(pydantic_core.to_json(item)), item)
    return picked


def _no_item(reference: Reference) -> ItemNotFound:
    return ItemNotFound(
        f"{reference.param}: there is no item '{reference.item_id[:64]}', or it is no longer kept: it must be in the output of a response "
        "that was stored, which store=false prevents. Send the item itself.",
        reference.param,
    )


def _not_done(reference: Reference) -> ItemNotFound:
    return ItemNotFound(
        f"{reference.param}: the response that item '{reference.item_id[:64]}' is part of is still under way; fetch it until it is done.",
        reference.param,
    )


def put_in(body: bytes, found: dict[int, JsonValue]) -> bytes:
    """Return a checked body with items in the places where they were named."""
    value = pydantic_core.from_json(body)
    value["input"] = [found.get(place, item) for place, item in enumerate(value["input"])]
    return pydantic_core.to_json(value)
