"""What of a client's JSON schema answers can be held to: a schema for the grammar library, and what had to be left out of it.

JSON Schema makes ``format`` a remark, and clients write many that nobody checks: those are taken out. Objects that list their properties
are closed where the schema does not say whether they may have others: a small model that may invent names goes on doing so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

from pydantic import JsonValue

Schema = dict[str, JsonValue]

FORMATS = frozenset({"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
"""What llguidance holds strings to."""

NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
LISTED = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
ALONE = ("items", "additionalProperties", "additionalItems", "unevaluatedProperties", "unevaluatedItems", "contains", "propertyNames")
INSIDE = ("not", "if", "then", "else")
ALTERNATIVES = ("anyOf", "oneOf")
COMBINING = ("allOf", *ALTERNATIVES, "$ref", "dependentSchemas", *INSIDE)
"""Keywords by which other schemas speak of the same value."""
OWN_PROPERTIES = ("properties", "patternProperties", "additionalProperties")
LEFT_OPEN = (*COMBINING, "additionalProperties", "unevaluatedProperties", "patternProperties")

UNIMPLEMENTED = re.compile(r'Unimplemented keys: \[("[A-Za-z$]{1,40}"(?:, "[A-Za-z$]{1,40}")*)\]')
"""The only words of the library that are repeated: names of JSON Schema keywords."""
COUNTS = "min/maxProperties only supported"
"""How the library says that it counts the properties of an object only where all of them must be there."""

MAX_ROUNDS = 32
MAX_PATTERNS = 128
"""How many patterns are tried one by one to find those that the library does not read."""
MAX_SHOWN_CHARS = 120


@dataclass(slots=True)
class Enforceable:
    """A schema for the library. ``dropped`` says what a client wanted beyond it, and where."""

    schema: Schema
    dropped: list[str] = field(default_factory=list)

    def drop(self, node: Schema, keyword: str, path: str) -> None:
        """Leave a keyword out."""
        value = node.pop(keyword)
        what = f"the pattern '{_shown(value)}'" if keyword == "pattern" else f"'{keyword[:MAX_SHOWN_CHARS]}'"
        self.dropped.append(f"{what} at {_shown(path)}" if path else f"{what} at its top")


def enforceable(schema: Schema, problem_of: Callable[[Schema], str]) -> Enforceable:
    """Return what of a schema, whose size was checked, the library takes; ``problem_of`` is the library, which says what it does not.

    Where it finds a fault that leaving keywords out does not mend, the schema still has it.
    """
    result = Enforceable(_copied(schema))
    for _, node in _nodes(result.schema):
        _take_remarks_out(node)
    for _ in range(MAX_ROUNDS):
        problem = problem_of(result.schema)
        if not problem or not _left_out(result, problem, problem_of):
            break
    _close(result.schema)
    return result


def _copied(value: Schema) -> Schema:
    return {name: _copied_value(child) for name, child in value.items()}


def _copied_value(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return _copied(value)
    return [_copied_value(child) for child in value] if isinstance(value, list) else value


def _nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield every schema inside ``schema``, itself first, with where it is."""
    yield path, schema
    for step, child in list(_inside(schema)):
        yield from _nodes(child, f"{path}.{step}" if path else step)


def _inside(schema: Schema) -> Iterator[tuple[str, Schema]]:
    for keyword, value in schema.items():
        children: list[tuple[str, JsonValue]] = []
        if keyword in NAMED and isinstance(value, dict):
            children = [(f"{keyword}.{name}", child) for name, child in value.items()]
        elif keyword in LISTED and isinstance(value, list):
            children = [(f"{keyword}[{place}]", child) for place, child in enumerate(value)]
        elif keyword in ALONE or keyword in INSIDE:
            children = [(keyword, value)]
        yield from ((step, child) for step, child in children if isinstance(child, dict))


def _take_remarks_out(node: Schema) -> None:
    """Take out of one schema what says nothing of its values."""
    given = node.get("format")
    if isinstance(given, str) and given not in FORMATS:
        del node["format"]
    names = node.get("propertyNames")
    if names is True or (isinstance(names, dict) and names in ({}, {"type": "string"})):
        del node["propertyNames"]
    if node.get("uniqueItems") is False:
        del node["uniqueItems"]


def _left_out(result: Enforceable, problem: str, problem_of: Callable[[Schema], str]) -> bool:
    """Leave out what the library complains of; tell whether that was anything."""
    num_before = len(result.dropped)
    unimplemented = UNIMPLEMENTED.search(problem)
    if unimplemented:
        _drop_keywords(result, re.findall(r"[A-Za-z$]+", unimplemented.group(1)))
    elif COUNTS in problem:
        _drop_keywords(result, ["minProperties", "maxProperties"])
    else:
        _drop_patterns(result, problem_of)
    return len(result.dropped) > num_before


def _drop_keywords(result: Enforceable, keywords: list[str]) -> None:
    for path, node in _nodes(result.schema):
        for keyword in keywords:
            if keyword in node:
                result.drop(node, keyword, path)


def _drop_patterns(result: Enforceable, problem_of: Callable[[Schema], str]) -> None:
    """Leave out the patterns that the library does not read, which are those with look-around and back-references, and faulty ones."""
    unread: dict[str, bool] = {}

    def is_unread(pattern: str) -> bool:
        if pattern not in unread:
            unread[pattern] = len(unread) < MAX_PATTERNS and bool(problem_of({"type": "string", "pattern": pattern}))
        return unread[pattern]

    for path, node in _nodes(result.schema):
        pattern, by_pattern = node.get("pattern"), node.get("patternProperties")
        if isinstance(pattern, str) and is_unread(pattern):
            result.drop(node, "pattern", path)
        if isinstance(by_pattern, dict) and any(is_unread(name) for name in by_pattern):
            result.drop(node, "patternProperties", path)


def _close(root: Schema) -> None:
    """Close the objects that list their properties, but for those that say themselves, or of which other schemas speak too."""
    nodes = [node for _, node in _nodes(root)]
    parts = _parts(root, nodes)
    if parts is None:
        return
    for node in nodes:
        properties, required = node.get("properties"), node.get("required", [])
        if not isinstance(properties, dict) or id(node) in parts or any(keyword in node for keyword in LEFT_OPEN):
            continue
        if isinstance(required, list) and all(name in properties for name in required):
            node["additionalProperties"] = False


def _parts(root: Schema, nodes: list[Schema]) -> set[int] | None:
    """Return the identities of schemas that say only part of what holds for their values; None where references lead out of sight."""
    parts: set[int] = set()
    waiting: list[Schema] = []
    for node in nodes:
        branches = _branches(node, root)
        if branches is None:
            return None
        if _is_combined(node):
            waiting += branches
    while waiting:
        part = waiting.pop()
        if id(part) not in parts:
            parts.add(id(part))
            waiting += _branches(part, root) or []
    return parts


def _is_combined(node: Schema) -> bool:
    """Tell whether a schema says more of a value than one schema that it leads to."""
    combining = [keyword for keyword in COMBINING if keyword in node]
    all_of = node.get("allOf")
    return len(combining) > 1 or any(keyword in node for keyword in OWN_PROPERTIES) or (isinstance(all_of, list) and len(all_of) > 1)


def _branches(node: Schema, root: Schema) -> list[Schema] | None:
    """Return the schemas that speak of the same value as ``node``; None where one is not in ``root``."""
    branches = [child for step, child in _inside(node) if step.partition("[")[0].partition(".")[0] in COMBINING]
    reference = node.get("$ref")
    if reference is None:
        return branches
    target = _target(reference, root)
    return None if target is None else [*branches, target]


def _target(reference: JsonValue, root: Schema) -> Schema | None:
    if not isinstance(reference, str) or not re.match(r"#(/|$)", reference):
        return None
    target: JsonValue = root
    for step in unquote(reference).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and name.isdecimal() and int(name) < len(target):
            target = target[int(name)]
        elif isinstance(target, dict) and name in target:
            target = target[name]
        else:
            return None
    return target if isinstance(target, dict) else None


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"
