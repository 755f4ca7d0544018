"""One JSON object of a model directory, read field by field with its type checked.

A wrong field is refused with the file, the field and the value, so that the readers above (`config`, `profile`, `tokenizer`) only
say which fields they want.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

from model.errors import CheckpointError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JsonObject:
    """The object at ``place`` (for messages; empty is the top) of the file ``path``."""

    path: Path
    fields: dict[str, object]
    place: str = ""

    @classmethod
    def read(cls, path: Path, reason: str) -> JsonObject:
        """Read the file ``path``, which must hold one JSON object.

        Raises:
            CheckpointError: no such file (``reason`` says what it is needed for), or not a JSON object.
        """
        if not path.is_file():
            raise CheckpointError.missing_file(path, reason)
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise CheckpointError.in_file(path, f"not valid JSON: {error}") from error
        if not isinstance(value, dict):
            raise CheckpointError.in_file(path, "expected a JSON object")
        return cls(path, value)

    @classmethod
    def read_optional(cls, path: Path) -> JsonObject:
        """Read the file ``path``; an absent one counts as empty."""
        return cls.read(path, "optional") if path.is_file() else cls(path, {})

    @classmethod
    def read_lenient(cls, path: Path) -> JsonObject:
        """Read the file ``path``, which is welcome but never needed: an absent one counts as empty, a broken one too, with a warning."""
        try:
            return cls.read_optional(path)
        except CheckpointError as error:
            logger.warning("ignoring a file that is not needed: %s", error)
            return cls(path, {})

    def has(self, name: str) -> bool:
        """Say whether the field is there and not null."""
        return self.fields.get(name) is not None

    def child(self, name: str) -> JsonObject:
        """Return the object in the field ``name``; an absent one counts as empty."""
        value = self.fields.get(name)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return JsonObject(self.path, value, self._full(name) + ".")

    def positive(self, name: str, default: int | None = None) -> int:
        """Return a positive integer; without a default the field is required."""
        value = self._value(name, default)
        if type(value) is not int or value <= 0:
            raise self.wrong(name, "a positive integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a finite number; without a default the field is required."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(name, "a finite number")
        return float(value)

    def string(self, name: str, default: str | None = None) -> str:
        """Return a string; without a default the field is required."""
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def boolean(self, name: str, default: bool | None = None) -> bool:
        """Return true or false; without a default the field is required."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def strings(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """Return a list of strings."""
        value = self._value(name, list(default))
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(name, "a list of strings")
        return tuple(value)

    def positives(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Return a non-empty list of positive integers; without a default the field is required."""
        value = self._value(name, None if default is None else list(default))
        if not isinstance(value, list) or not value or not all(type(item) is int and item > 0 for item in value):
            raise self.wrong(name, "a list of positive integers")
        return tuple(value)

    def allow_only(self, names: frozenset[str]) -> None:
        """Refuse fields that nobody reads.

        Raises:
            CheckpointError: naming the unknown fields and the known ones.
        """
        unknown = sorted(set(self.fields) - names)
        if unknown:
            where = f" in {self.place[:-1]!r}" if self.place else ""
            raise CheckpointError.in_file(
                self.path, f"unknown field {', '.join(map(repr, unknown))}{where}; known are {', '.join(sorted(names))}"
            )

    def wrong(self, name: str, expected: str) -> CheckpointError:
        """Build the error that says what the field ``name`` should have been."""
        found = f"found {self.fields[name]!r}" if name in self.fields else "it is missing"
        return CheckpointError.in_file(self.path, f"field {self._full(name)!r}: expected {expected}, {found}")

    def _full(self, name: str) -> str:
        return self.place + name

    def _value(self, name: str, default: object) -> object:
        value = self.fields.get(name)
        return default if value is None else value
