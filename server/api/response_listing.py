"""A response's input as the API lists it: every item with an id and in its full form, however briefly it was sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, Field, JsonValue

from server.api.response_items import (
    CallItem,
    CallOutputItem,
    InputContent,
    InputImage,
    InputItem,
    InputText,
    MessageItem,
    PictureItem,
    ReasoningItem,
    ReferenceItem,
)
from server.api.response_schemas import ResponseRequest
from server.api.wire_object import WireObject
from server.errors import InvalidValue

JsonObject = dict[str, JsonValue]


class ListQuery(WireObject):
    """Which part of the list is wanted."""

    after: Annotated[str, Field(max_length=256)] | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


class ItemListOut(BaseModel):
    object: Literal["list"] = "list"
    data: list[JsonObject]
    first_id: str
    last_id: str
    has_more: bool


@dataclass(frozen=True, slots=True)
class ListedInput:
    """The input of the response whose id ends in ``key``."""

    key: str
    items: Sequence[InputItem]

    def page(self, query: ListQuery) -> ItemListOut:
        """Return a part of the list.

        Raises:
            InvalidValue: ``after`` is no item of it.
        """
        listed = [self._listed(place, item) for place, item in enumerate(self.items)]
        if query.order == "desc":
            listed.reverse()
        ids = [str(item["id"]) for item in listed]
        if query.after is not None and query.after not in ids:
            raise InvalidValue("after: is no item of this list.", "after")
        start = 0 if query.after is None else ids.index(query.after) + 1
        shown = listed[start : start + query.limit]
        shown_ids = ids[start : start + query.limit] or [""]
        return ItemListOut(data=shown, first_id=shown_ids[0], last_id=shown_ids[-1], has_more=start + query.limit < len(listed))

    def _listed(self, place: int, item: InputItem) -> JsonObject:
        match item:
            case MessageItem():
                own: JsonObject = {"role": item.role, "content": _content(item.content, item.role), "status": "completed"}
                prefix = "msg"
            case PictureItem():
                own, prefix = {"result": item.result, "status": "completed"}, "ig"
            case ReasoningItem():
                own = {"summary": _thoughts(item.summary), "content": _thoughts(item.content), "status": "completed"}
                own["encrypted_content"] = item.encrypted_content
                prefix = "rs"
            case CallItem():
                own = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments, "status": "completed"}
                prefix = "fc"
            case CallOutputItem():
                output: JsonValue = item.output if isinstance(item.output, str) else _content(item.output, "user")
                answered: JsonObject = {} if item.call_id is None else {"call_id": item.call_id}
                own, prefix = {**answered, "output": output, "status": "completed"}, "fco"
            case ReferenceItem():
                own, prefix = {}, "ref"
        return {"id": item.id or f"{prefix}_{self.key}_in{place}", "type": item.type, **own}


def _thoughts(parts: Sequence[InputText] | None) -> list[JsonValue]:
    return [{"type": part.type, "text": part.text} for part in parts or []]


def _content(content: InputContent, role: str) -> list[JsonValue]:
    if isinstance(content, str):
        return [_words(content, role)]
    return [_part(part, role) for part in content]


def _part(part: InputText | InputImage, role: str) -> JsonObject:
    if isinstance(part, InputText):
        return _words(part.text, role)
    where: JsonObject = {"image_url": part.image_url} if part.image_url is not None else {"file_id": part.file_id}
    return {"type": "input_image", **where, "detail": part.detail or "auto"}


def _words(text: str, role: str) -> JsonObject:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}


def input_items(request: ResponseRequest) -> list[InputItem]:
    """Return a request's input as items."""
    if isinstance(request.input, str):
        return [MessageItem(role="user", content=request.input)]
    return request.input
