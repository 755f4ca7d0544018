"""What ``/openapi.json`` says of routes that read and write their own bodies: requests, answers, streams and errors.

A route hands `operation` to its router; `complete_document` puts the schemas in their place once every route is there, and says of each
what holds for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, JsonValue
from pydantic.json_schema import JsonSchemaMode

from server.api.wire_object import WireObject

Json = dict[str, JsonValue]
REF = "#/components/schemas/{model}"
DEFINITIONS = "$defs"
RAISES = "\n\nRaises:"
"""Where the part of a route's docstring begins that speaks of Python; what is refused, and how, stands in the answers."""


class ErrorOut(BaseModel):
    """What went wrong; ``param`` is the field at fault, ``code`` the machine-readable name."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is an error, and the last event of a stream that failed."""

    error: ErrorOut


ERRORS: Mapping[int, str] = {
    400: "The request cannot be done: a field is unknown, not honoured or out of its bound; `param` names it.",
    401: "A key is needed.",
    404: "There is no such model or address.",
    408: "The body did not arrive in time.",
    409: "The idempotency key is in use for another body, or was in a request that still runs.",
    413: "The body has more bytes than the server takes in.",
    415: "The body is not said to be of a type that is read here.",
    429: "This key's share is used up; `retry-after` says when to come back.",
    500: "The server failed on this request.",
    503: "The engine is not ready, or too much is in flight; `retry-after` says when to come back.",
    504: "The deadline of the request has passed.",
}
ERRORS_OF_ALL = (401, 429, 500)
ERRORS_OF_BODIES = (400, 404, 408, 409, 413, 415, 503, 504)

HEADERS: Json = {
    "x-request-id": {"description": "Names this request in the server's log.", "schema": {"type": "string"}},
    "openai-version": {"description": "The version of OpenAI's API that the answer follows.", "schema": {"type": "string"}},
    "openai-processing-ms": {"description": "Milliseconds until the answer began.", "schema": {"type": "string"}},
    "server-timing": {"description": "The same, where a browser's tools show it.", "schema": {"type": "string"}},
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One route as the document shows it.

    Attributes:
        body: the request's schema; None where there is no body. content_types: as what it may come.
        model_name: the only value of the body's field ``model``.
        answer: what a whole answer holds; event: what the events of a stream hold; None where there is none.
        last: what a stream's last event holds, where that is no JSON.
    """

    body: type[WireObject] | None = None
    answer: type[BaseModel] | None = None
    event: type[BaseModel] | None = None
    last: str | None = None
    content_types: tuple[str, ...] = ("application/json",)
    model_name: str | None = None


def operation(described: Operation) -> Json:
    """Return ``openapi_extra`` of a route."""
    extra: Json = {"responses": {"200": _success(described)}}
    if described.body is not None:
        schema = _placed(described.body, described.model_name)
        extra["requestBody"] = {"required": True, "content": {kind: {"schema": schema} for kind in described.content_types}}
        responses = extra["responses"]
        assert isinstance(responses, dict)
        responses.update({str(status): _error(status) for status in ERRORS_OF_BODIES})
    return extra


def _success(described: Operation) -> Json:
    content: Json = {}
    if described.answer is not None:
        content["application/json"] = {"schema": _placed(described.answer)}
    if described.event is not None:
        content["text/event-stream"] = {"schema": _each_event(described.event, described.last)}
    return {"description": "The answer; a stream where the request asks for one.", "content": content}


def _each_event(event: type[BaseModel], last: str | None) -> Json:
    """Return the schema of one server-sent event, which is how OpenAPI before 3.2 describes a stream."""
    words: list[JsonValue] = [] if last is None else [{"const": last}]
    choices: list[JsonValue] = [*words, _in_json(event), _in_json(ErrorBody)]
    data: Json = {"description": "What the event says; a stream that fails ends with an error object.", "anyOf": choices}
    return {
        "type": "object",
        "description": "One event of the stream; lines that begin with a colon, between events, keep the connection alive.",
        "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": data},
        "required": ["data"],
    }


def _in_json(model: type[BaseModel]) -> Json:
    return {"type": "string", "contentMediaType": "application/json", "contentSchema": _placed(model)}


def _placed(model: type[BaseModel], model_name: str | None = None) -> Json:
    """Return a reference to a schema, with the schema and all it refers to beside it."""
    mode: JsonSchemaMode = "validation" if issubclass(model, WireObject) else "serialization"
    schema = model.model_json_schema(ref_template=REF, mode=mode)
    definitions = schema.pop(DEFINITIONS, {})
    if model_name is not None:
        schema["properties"]["model"] |= {"const": model_name, "example": model_name}
    return {"$ref": REF.format(model=model.__name__), DEFINITIONS: {**definitions, model.__name__: schema}}


def _error(status: int) -> Json:
    return {"description": ERRORS[status], "content": {"application/json": {"schema": _placed(ErrorBody)}}}


def complete_document(document: Json) -> None:
    """Complete, in place, what FastAPI says: schemas where they are referred to, headers and errors that any route may answer with."""
    paths, components = document["paths"], document.setdefault("components", {})
    assert isinstance(paths, dict) and isinstance(components, dict)
    schemas = components.setdefault("schemas", {})
    assert isinstance(schemas, dict)
    for path in paths.values():
        assert isinstance(path, dict)
        for method in path.values():
            assert isinstance(method, dict)
            _complete_operation(method)
    _gather(document, schemas)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "Needed where the server has keys."}}


def _complete_operation(described: Json) -> None:
    if isinstance(docstring := described.get("description"), str):
        described["description"] = docstring.partition(RAISES)[0]
    responses = described["responses"]
    assert isinstance(responses, dict)
    responses.pop("422", None)
    if described.get("parameters"):
        responses.setdefault("404", _error(404))
    for status in ERRORS_OF_ALL:
        responses.setdefault(str(status), _error(status))
    for response in responses.values():
        assert isinstance(response, dict)
        response["headers"] = HEADERS


def _gather(node: JsonValue, schemas: Json) -> None:
    """Move all definitions below ``node`` into ``schemas``; of two that differ under one name, the later is named after its root too."""
    if isinstance(node, list):
        for child in node:
            _gather(child, schemas)
    elif isinstance(node, dict):
        definitions = node.pop(DEFINITIONS, None)
        if isinstance(definitions, dict):
            root = str(node["$ref"])
            names = _new_names(definitions, root.rpartition("/")[2], schemas)
            node["$ref"] = names.get(root, root)
            schemas.update(
                {names.get(_ref(name), _ref(name)).rpartition("/")[2]: _renamed(one, names) for name, one in definitions.items()}
            )
        for child in list(node.values()):
            _gather(child, schemas)


def _new_names(definitions: Json, root: str, schemas: Json) -> dict[str, str]:
    """Return the new reference to each schema whose name is taken by another one, and to each that refers to such a one."""
    names = {_ref(name): _ref(f"{name}Of{root}") for name, schema in definitions.items() if schemas.get(name, schema) != schema}
    while True:
        depending = [
            name
            for name, schema in definitions.items()
            if _ref(name) not in names and name in schemas and _renamed(schema, names) != schema
        ]
        if not depending:
            return names
        names |= {_ref(name): _ref(f"{name}Of{root}") for name in depending}


def _ref(name: str) -> str:
    return REF.format(model=name)


def _renamed(node: JsonValue, names: Mapping[str, str]) -> JsonValue:
    """Return ``node`` with its references renamed."""
    if isinstance(node, list):
        return [_renamed(child, names) for child in node]
    if isinstance(node, dict):
        return {key: _renamed(child, names) for key, child in node.items()}
    return names.get(node, node) if isinstance(node, str) else node
