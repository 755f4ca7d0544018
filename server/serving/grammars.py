"""What an answer's text must be, as a grammar for the engine: any JSON object, or JSON that fits a schema.

A client's schema is bounded here before the grammar library sees it, and what the library cannot hold an answer to is refused. JSON is
written on one line, as a model writes it by itself: free white space would let a small model write nothing else.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import llguidance
from pydantic import JsonValue

from server.errors import InvalidValue, UnsupportedParameter
from server.serving.asks import JsonForm

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_SCHEMA_CHARS = 1 << 16
MAX_SCHEMA_DEPTH = 32
MAX_SCHEMA_NODES = 5000
MAX_ENUM_VALUES = 1000
MAX_PATTERN_CHARS = 512

JSON_STYLE: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
    "lenient": False,
}
"""``coerce_one_of`` reads oneOf as anyOf: which alternative is meant cannot be told while it is being written."""

LIMITS = llguidance.LLParserLimits(verbose_errors=False)
UNIMPLEMENTED = re.compile(r'Unimplemented keys: \[("[A-Za-z$]{1,40}"(?:, "[A-Za-z$]{1,40}")*)\]')
"""The only words of the library that are repeated: names of JSON Schema keywords."""


def json_grammar(form: JsonForm) -> str:
    """Return the grammar of JSON of a form.

    Raises:
        InvalidValue: no schema, or one beyond the bounds.
        UnsupportedParameter: the schema uses what answers cannot be held to.
    """
    check_schema(form.schema, form.param)
    return str(llguidance.LLMatcher.grammar_from_json_schema(json.dumps(form.schema), overrides=JSON_STYLE))


def check_schema(schema: dict[str, JsonValue], param: str) -> None:
    """Check that answers can be held to a schema.

    Raises:
        InvalidValue, UnsupportedParameter: see `json_grammar`.
    """
    _check_size(schema, param)
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_STYLE)
    problem = str(llguidance.LLMatcher.validate_grammar(grammar, limits=LIMITS))
    if not problem:
        return
    unimplemented = UNIMPLEMENTED.search(problem)
    if unimplemented:
        raise UnsupportedParameter(f"{param}: answers cannot be held to the keywords {unimplemented.group(1)}.", param)
    if "too big" in problem or "limit" in problem:
        raise InvalidValue(f"{param}: the schema is too complex; simplify its patterns, counts or alternatives.", param)
    raise InvalidValue(f"{param}: not a JSON schema that an answer can be held to.", param)


def _check_size(schema: dict[str, JsonValue], param: str) -> None:
    num_chars = len(json.dumps(schema))
    if num_chars > MAX_SCHEMA_CHARS:
        raise InvalidValue(f"{param}: the schema has {num_chars} characters; at most {MAX_SCHEMA_CHARS} are read.", param)
    num_nodes = num_values = 0
    level: list[JsonValue] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        num_nodes += len(level)
        for node in level:
            if isinstance(node, dict):
                num_values += _num_enum_values(node)
                _check_pattern(node, param)
        level = [child for node in level for child in _children(node)]
    if level:
        raise InvalidValue(f"{param}: the schema is nested more than {MAX_SCHEMA_DEPTH} deep.", param)
    if num_nodes > MAX_SCHEMA_NODES:
        raise InvalidValue(f"{param}: the schema has {num_nodes} values; at most {MAX_SCHEMA_NODES} are read.", param)
    if num_values > MAX_ENUM_VALUES:
        raise InvalidValue(f"{param}: the schema's enums have {num_values} values; at most {MAX_ENUM_VALUES} are read.", param)


def _num_enum_values(node: dict[str, JsonValue]) -> int:
    values = node.get("enum")
    return len(values) if isinstance(values, list) else 0


def _check_pattern(node: dict[str, JsonValue], param: str) -> None:
    pattern = node.get("pattern")
    if isinstance(pattern, str) and len(pattern) > MAX_PATTERN_CHARS:
        raise InvalidValue(f"{param}: a pattern has {len(pattern)} characters; at most {MAX_PATTERN_CHARS} are read.", param)


def _children(node: JsonValue) -> list[JsonValue]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []
