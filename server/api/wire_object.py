"""The base of every object a client may send: strict, bounded, and with a name for whatever it does not know.

A field is honoured, or refused by name; none is ignored. Null counts as absent, whatever the field's name: clients send back what they
have read, with null for what was not there. The validators raise pydantic's custom errors whose kind
is one of ours, which `server.api.bad_requests` turns into errors of the catalogue.
"""

from __future__ import annotations

import difflib
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

UNKNOWN = "unknown_parameter"
UNSUPPORTED = "unsupported_parameter"
INVALID = "invalid_value"

LIKENESS = 0.75
"""How alike two names must be, by `difflib`, for one to be a slip of the other: below that, a wrong guess is likelier than a right one."""

MAX_NAME_CHARS = 64
"""How much of a client's own field name an error repeats."""


class WireObject(BaseModel):
    """A JSON object from outside.

    Attributes:
        REFUSED: fields that exist elsewhere and are not honoured here, with what to say.
        SYNONYMS: other names of our fields, to suggest ours.
        MAX_VALUES: how many values a body of this kind may hold, about; more would cost far more to read than to send.
    """

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, extra="forbid")

    REFUSED: ClassVar[dict[str, str]] = {}
    SYNONYMS: ClassVar[dict[str, str]] = {}
    MAX_VALUES: ClassVar[int] = 1 << 18

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_honoured(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        known = cls.known_names()
        for name, given in value.items():
            if given is None or name in known:
                continue
            if name not in cls.REFUSED:
                raise unknown(name, cls._nearest(name))
            raise unsupported(cls.REFUSED[name], name)
        return {name: given for name, given in value.items() if given is not None}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Say that null counts as absent: it may stand for every field that need not be there."""
        schema = handler(core_schema)
        own = handler.resolve_ref_schema(schema)
        required = own.get("required", [])
        for name, field in own.get("properties", {}).items():
            if name not in required:
                own["properties"][name] = _nullable(field)
        return schema

    @classmethod
    def known_names(cls) -> list[str]:
        """Return the fields as clients spell them."""
        return [field.alias or name for name, field in cls.model_fields.items()]

    @classmethod
    def _nearest(cls, name: str) -> str | None:
        if name in cls.SYNONYMS:
            return cls.SYNONYMS[name]
        plain = name[:MAX_NAME_CHARS].strip("_-").lower()
        nearest = next(iter(difflib.get_close_matches(plain, [*cls.known_names(), *cls.SYNONYMS], n=1, cutoff=LIKENESS)), None)
        return None if nearest is None else cls.SYNONYMS.get(nearest, nearest)


def _nullable(field: JsonSchemaValue) -> JsonSchemaValue:
    if any(choice == {"type": "null"} for choice in field.get("anyOf", [])):
        return field
    said: JsonSchemaValue = {key: field[key] for key in ("default", "title", "description") if key in field}
    return {**said, "anyOf": [{key: value for key, value in field.items() if key not in said}, {"type": "null"}]}


def unknown(name: str, nearest: str | None) -> PydanticCustomError:
    """Say that nobody knows the field ``name``."""
    hint = "" if nearest is None else f"; the nearest known one is '{nearest}'"
    return PydanticCustomError(UNKNOWN, "unknown field{hint}", {"hint": hint, "name": name[:MAX_NAME_CHARS]})


def unsupported(reason: str, name: str | None = None) -> PydanticCustomError:
    """Say that a field, or its value, is not honoured here; ``name`` is the field below the object being checked."""
    return PydanticCustomError(UNSUPPORTED, "{reason}", {"reason": reason, "name": name or ""})


def invalid(reason: str, name: str | None = None) -> PydanticCustomError:
    """Say what is wrong with a value; ``name`` is the field below the object being checked."""
    return PydanticCustomError(INVALID, "{reason}", {"reason": reason, "name": name or ""})
