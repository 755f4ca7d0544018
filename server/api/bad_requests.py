"""Reads a JSON body against a schema; what does not fit becomes one error of ours that names the field and the bound, never the value."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

import pydantic_core
from pydantic import ValidationError

from server.api.wire_object import UNKNOWN, UNSUPPORTED, WireObject
from server.errors import InvalidRequest, InvalidValue, UnknownParameter, UnsupportedParameter
from server.plain_words import in_plain_words

LARGE_BODY_BYTES = 1 << 17
"""From here on a body is read in a thread: the event loop has other streams to serve."""

BYTES_PER_VALUE = 2
"""At least: a digit and a comma."""

MAX_PARAM_CHARS = 200

MAX_SAID_CHARS = 400

JSON_KINDS = frozenset({"dict", "list", "float"})
"""Steps of pydantic's locations that are no places in a body."""

ObjectT = TypeVar("ObjectT", bound=WireObject)


async def read_body(body: bytes, schema: type[ObjectT]) -> ObjectT:
    """Parse and check a request body.

    Raises:
        InvalidRequest: not JSON, or not what the schema says.
    """
    if len(body) >= LARGE_BODY_BYTES:
        return await asyncio.to_thread(checked, body, schema)
    return checked(body, schema)


def checked(body: bytes, schema: type[ObjectT]) -> ObjectT:
    """Parse and check a request body in this thread; see `read_body`."""
    _check_num_values(body, schema.MAX_VALUES)
    return fitted(parsed(body), schema)


def _check_num_values(body: bytes, most: int) -> None:
    if len(body) >= BYTES_PER_VALUE * most and has_more_values(body, most):
        raise InvalidRequest(f"The body has more than {most} values in its lists and objects; at most {most} are read.")


def has_more_values(body: bytes, most: int) -> bool:
    """Tell whether JSON has more than ``most`` values and names, without building any of them: thirty million cost a few gigabytes."""
    if _num_marks(body) <= most:
        return False
    # Most of the marks may stand in strings.
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if plain.count(b'"') > 2 * (most + 1):
        return True
    return _num_marks(b"".join(plain.split(b'"')[::2])) > most


def _num_marks(body: bytes) -> int:
    """Return how many places there are for a value or a name."""
    return sum(map(body.count, (b",", b":", b"[", b"{")))


def parsed(body: bytes) -> object:
    """Parse a request body.

    Raises:
        InvalidRequest: it is not JSON.
    """
    try:
        # NaN and Infinity are let through so that the schema refuses them by the field's name.
        value: object = pydantic_core.from_json(body, allow_inf_nan=True)
    except ValueError as error:
        raise InvalidRequest("The body is not valid JSON, or nested too deeply.") from error
    return value


def fitted(value: object, schema: type[ObjectT]) -> ObjectT:
    """Check a parsed body.

    Raises:
        InvalidRequest: it is not what the schema says.
    """
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise _first_problem(error, value) from error


def _first_problem(error: ValidationError, value: object) -> InvalidRequest:
    problems = error.errors(include_url=False, include_input=False)
    problem = problems[0]
    context = problem.get("ctx") or {}
    param = _param(_without_kinds(problem["loc"], value), str(context.get("name", "")))
    more = f" ({len(problems) - 1} more fields are wrong.)" if len(problems) > 1 else ""
    message = f"{param or 'body'}: {in_plain_words(problem)[:MAX_SAID_CHARS]}.{more}"
    if problem["type"] == UNKNOWN:
        return UnknownParameter(message, param)
    if problem["type"] == UNSUPPORTED:
        return UnsupportedParameter(message, param)
    return InvalidValue(message, param)


def _without_kinds(location: Sequence[int | str], value: object) -> list[int | str]:
    """Leave out of a location within ``value`` what pydantic says of a free JSON value: of which kind it is."""
    steps: list[int | str] = []
    for step in location:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and isinstance(step, int):
            value = value[int(step)]
        elif step in JSON_KINDS:
            continue
        steps.append(step)
    return steps


def _param(location: Sequence[int | str], name: str) -> str | None:
    """Write a pydantic location as a path: ``messages[0].content[1].text``. Parenthesised steps are our union tags."""
    path = ""
    steps: list[int | str] = [*location, name] if name else list(location)
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not (step.startswith("(") and step.endswith(")")):
            path += f".{step}" if path else step
    return path[:MAX_PARAM_CHARS] or None
