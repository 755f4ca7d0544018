"""What becomes of each field of a request: honoured, accepted without effect, or refused by name.

One table for each route stands behind its schema's refusals and descriptions, and behind a page of the documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from pydantic.config import JsonDict


class Treatment(Enum):
    HONOURED = "honoured"
    NO_OP = "no-op"
    REFUSED = "refused"


class Origin(Enum):
    """Whose name a field is."""

    OPENAI = "OpenAI"
    VLLM = "vLLM"
    SGLANG = "SGLang"
    PLAIT = "Plait"
    ELSEWHERE = "other routes"


@dataclass(frozen=True, slots=True)
class FieldRule:
    """One field. ``says`` is its effect, why it has none, or what to do instead: an error repeats it."""

    name: str
    origin: Origin
    treatment: Treatment
    says: str


def honoured(origin: Origin, **effects: str) -> tuple[FieldRule, ...]:
    """Return rules of fields with their effects."""
    return tuple(FieldRule(name, origin, Treatment.HONOURED, says) for name, says in effects.items())


def no_op(**reasons: str) -> tuple[FieldRule, ...]:
    """Return rules of fields of OpenAI's that have no effect, with the reason."""
    return tuple(FieldRule(name, Origin.OPENAI, Treatment.NO_OP, says) for name, says in reasons.items())


def refused(origin: Origin, **hints: str) -> tuple[FieldRule, ...]:
    """Return rules of refused fields, with what to do instead."""
    return tuple(FieldRule(name, origin, Treatment.REFUSED, says) for name, says in hints.items())


INTRODUCTION = """\
# Fields of {subject}

Every field of `{route}`: *honoured* (it has the effect), *no-op* (accepted for the sake of clients that always send
it, without effect) or *refused* (an error with `"code": "unsupported_parameter"` and the field's name as `param`). Any other field is
refused with `"code": "unknown_parameter"` and the nearest known name. `null` counts as left out.

Written from the code; renew it with `python -m server.api.field_pages`.
"""


@dataclass(frozen=True, slots=True)
class FieldTable:
    """All fields of one route. ``page_name`` is its page's in the documentation, ``subject`` what has the fields."""

    page_name: str
    subject: str
    route: str
    rules: Sequence[FieldRule]

    def refusals(self) -> dict[str, str]:
        """Return what is said about each refused field."""
        return {rule.name: rule.says for rule in self.rules if rule.treatment is Treatment.REFUSED}

    def descriptions(self) -> dict[str, str]:
        """Return the description of each accepted field."""
        return {rule.name: _description(rule) for rule in self.rules if rule.treatment is not Treatment.REFUSED}

    def describe(self, schema: JsonDict) -> None:
        """Put what the table says of each field into its JSON schema."""
        properties = schema["properties"]
        assert isinstance(properties, dict)
        for name, says in self.descriptions().items():
            field = properties[name]
            assert isinstance(field, dict)
            field["description"] = says

    def page(self) -> str:
        """Return the reference page of the fields, as Markdown."""
        rows = [f"| `{rule.name}` | {rule.origin.value} | {rule.treatment.value} | {rule.says} |" for rule in self.rules]
        head = INTRODUCTION.format(subject=self.subject, route=self.route)
        return "\n".join([head, "| field | named by | treatment | effect, or what to do |", "| --- | --- | --- | --- |", *rows, ""])


def _description(rule: FieldRule) -> str:
    return f"No effect: {rule.says}" if rule.treatment is Treatment.NO_OP else rule.says
