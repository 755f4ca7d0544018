"""What is wrong with a value, in plain words: the one place where pydantic's kinds of errors become sentences of ours.

For settings and for requests alike. The value itself is never repeated: it may be a secret, or long.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic_core import ErrorDetails

SENTENCES: Mapping[str, str] = {
    "missing": "is required",
    "string_type": "expected a string",
    "string_too_short": "expected at least {min_length} characters",
    "string_too_long": "expected at most {max_length} characters",
    "string_pattern_mismatch": "expected something that matches {pattern}",
    "string_unicode": "expected Unicode text without lone surrogates",
    "int_type": "expected an integer",
    "int_parsing": "expected an integer",
    "int_parsing_size": "expected an integer with fewer digits",
    "int_from_float": "expected an integer, without a fraction",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "list_type": "expected a list",
    "dict_type": "expected a JSON object, with fields in braces",
    "model_type": "expected a JSON object, with fields in braces",
    "model_attributes_type": "expected a JSON object, with fields in braces",
    "literal_error": "expected {expected}",
    "enum": "expected {expected}",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "too_short": "expected at least {min_length} {unit}",
    "too_long": "expected at most {max_length} {unit}",
    "value_error": "{error}",
}
"""By kind. Kinds that are not here are our own, and their words are ours."""

ONE = {" 1 characters": " 1 character", " 1 entries": " 1 entry"}
ONE_OF_MANY = re.compile("|".join(f"{many}$" for many in ONE))

CHARACTERS = "Value"
"""What pydantic calls a secret where it means the number of its characters; lists and dictionaries have names of their own."""


def in_plain_words(problem: ErrorDetails) -> str:
    """Return what is wrong, as the rest of a sentence that begins with the field's name."""
    sentence = SENTENCES.get(problem["type"])
    if sentence is None:
        return problem["msg"].rstrip("?.")
    facts = {name: _plain(value) for name, value in (problem.get("ctx") or {}).items()}
    facts["unit"] = "characters" if facts.get("field_type") == CHARACTERS else "entries"
    return ONE_OF_MANY.sub(lambda match: ONE[match[0]], sentence.format_map(facts))


def _plain(value: object) -> str:
    """Return a bound without a fraction that says nothing."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
