"""Schemas as clients' libraries write them, and what of them answers are held to."""

from __future__ import annotations

import json

import llguidance
import pytest
from pydantic import JsonValue

from server.errors import InvalidValue, UnsupportedParameter
from server.serving.asks import Ask, Tool, ToolUse
from server.serving.enforceable import FORMATS
from server.serving.grammars import answer_grammar, held

JsonObject = dict[str, JsonValue]

LOOK_AHEAD: JsonObject = {"type": "string", "pattern": "^(?!x).*$"}
SET: JsonObject = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}


def holding(**properties: JsonValue) -> JsonObject:
    return {"type": "object", "properties": properties, "additionalProperties": False}


@pytest.mark.parametrize("name", ["path", "binary", "byte", "password", "url", "regex", "uri-reference", "color", "int32"])
@pytest.mark.parametrize("is_strict", [False, True])
def test_a_format_that_nobody_checks_is_a_remark(name: str, is_strict: bool) -> None:
    """pydantic's Path, zod's base64 and every OpenAPI document write some: one such tool failed the whole request."""
    assert held(holding(a={"type": "string", "format": name}), "p", is_strict=is_strict) == holding(a={"type": "string"})


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_format_that_the_library_knows_stays(name: str) -> None:
    schema = holding(a={"type": "string", "format": name})
    assert held(schema, "p", is_strict=True) == schema


def test_the_library_knows_no_other_format() -> None:
    """A newer one that did would be held to less than it could be; the words of its error are read for nothing else."""
    for name in ("iri", "json-pointer", "uri-reference", "regex"):
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps({"type": "string", "format": name}))
        assert "format" in str(llguidance.LLMatcher.validate_grammar(grammar))


@pytest.mark.parametrize("is_strict", [False, True])
def test_names_that_may_be_any_string_say_nothing(is_strict: bool) -> None:
    """So zod 4 writes a record."""
    record: JsonObject = {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "number"}}
    assert held(record, "p", is_strict=is_strict) == {"type": "object", "additionalProperties": {"type": "number"}}


@pytest.mark.parametrize(
    ("schema", "kept"),
    [
        (SET, {"type": "array", "items": {"type": "string"}}),
        (LOOK_AHEAD, {"type": "string"}),
        ({"type": "string", "pattern": r"(a)\1", "not": {"const": "aa"}}, {"type": "string"}),
        ({"type": "object", "patternProperties": {"^(?!x)": {}}}, {"type": "object"}),
        ({"type": "object", "minProperties": 1, "properties": {"b": True}}, holding(b=True)),
        ({"if": {}, "then": {"type": "string"}, "else": {}}, {}),
    ],
    ids=json.dumps,
)
def test_a_tool_that_is_not_strict_is_held_to_what_can_be(schema: JsonObject, kept: JsonObject) -> None:
    assert held(holding(a=schema), "p", is_strict=False) == holding(a=kept)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        (SET, "'uniqueItems' at properties.a"),
        (LOOK_AHEAD, "the pattern '^(?!x).*$' at properties.a"),
        ({"anyOf": [{"not": {}}]}, "'not' at properties.a.anyOf[0]"),
        ({"type": "object", "minProperties": 1, "properties": {"b": True}}, "'minProperties' at properties.a"),
    ],
    ids=json.dumps,
)
def test_what_must_fit_all_of_its_schema_is_refused_with_the_keyword_and_its_place(schema: JsonObject, named: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        held(holding(a=schema), "p", is_strict=True)
    assert caught.value.message == f"p: cannot be enforced: {named}."


def test_a_property_may_be_called_as_a_keyword_is() -> None:
    named: JsonObject = {"not": {"enum": [{"not": 1, "format": "path"}]}, "uniqueItems": {"type": "string"}}
    kept: JsonObject = {"type": "array", "items": {"type": "string"}}
    assert held(holding(**named, a=SET), "p", is_strict=False) == holding(**named, a=kept)


def test_the_client_s_own_schema_stays_as_it_was() -> None:
    schema: JsonObject = {"type": "object", "properties": {"a": {"type": "string", "format": "path"}}}
    before = json.dumps(schema)
    held(schema, "p", is_strict=False)
    assert json.dumps(schema) == before


ONE: JsonObject = {"type": "object", "properties": {"a": {"type": "string"}}}
CLOSED: JsonObject = {**ONE, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "kept"),
    [
        (ONE, CLOSED),
        ({"type": "array", "items": ONE}, {"type": "array", "items": CLOSED}),
        ({"anyOf": [ONE, {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        ({"$defs": {"A": ONE}, "$ref": "#/$defs/A"}, {"$defs": {"A": CLOSED}, "$ref": "#/$defs/A"}),
        ({"$defs": {"A": ONE}, "allOf": [{"$ref": "#/$defs/A"}]}, {"$defs": {"A": CLOSED}, "allOf": [{"$ref": "#/$defs/A"}]}),
    ],
    ids=json.dumps,
)
def test_an_object_that_lists_its_properties_has_no_others(schema: JsonObject, kept: JsonObject) -> None:
    """A small model began a name that it never ended, since any name would do."""
    assert held(schema, "p", is_strict=True) == kept


@pytest.mark.parametrize(
    "schema",
    [
        {**ONE, "additionalProperties": True},
        {**ONE, "additionalProperties": {"type": "number"}},
        {**ONE, "patternProperties": {"^x": {}}},
        {**ONE, "required": ["b"]},
        {"type": "object"},
        {"allOf": [ONE, {"properties": {"b": {"type": "string"}}, "required": ["b"]}]},
        {"$defs": {"A": ONE}, "allOf": [{"$ref": "#/$defs/A"}, {"properties": {"b": True}, "required": ["b"]}]},
        {"type": "object", "properties": {"kind": {"type": "string"}}, "anyOf": [ONE, {"properties": {"b": True}}]},
    ],
    ids=json.dumps,
)
def test_an_object_of_which_the_schema_says_more_stays_as_it_is(schema: JsonObject) -> None:
    assert held(schema, "p", is_strict=True) == schema


def grammar_of(parameters: JsonObject) -> str:
    use = ToolUse([Tool("f", None, parameters, "p")], must_call=True, is_parallel=False)
    return answer_grammar(Ask([], tool_use=use)) or ""


@pytest.mark.parametrize(
    "parameters",
    [{"type": "string"}, {"type": ["array", "null"]}, {"enum": [1]}, {"$defs": {"A": {"type": "string"}}, "$ref": "#/$defs/A"}],
)
def test_arguments_that_are_no_object_are_refused(parameters: JsonObject) -> None:
    """The call came as text: nobody could read its arguments."""
    with pytest.raises(InvalidValue) as caught:
        grammar_of(parameters)
    assert caught.value.param == "p"


@pytest.mark.parametrize("parameters", [{}, {"properties": {}}, {"type": ["object", "null"]}, {"$defs": {"A": ONE}, "$ref": "#/$defs/A"}])
def test_arguments_are_an_object_where_their_schema_allows_one(parameters: JsonObject) -> None:
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar_of(parameters))
    begin = b'<tool_call>\n{"name": "f", "arguments": '
    assert matcher.validate_tokens([*begin, ord("{")]) == len(begin) + 1
    assert matcher.validate_tokens([*begin, ord("n")]) == len(begin)


def test_an_object_of_too_many_properties_is_refused_before_its_answer_is_begun() -> None:
    """The library only said so when the brace had been written: the request was answered as a failure of the model."""
    many: JsonObject = {f"property {number}": {"type": "string"} for number in range(700)}
    with pytest.raises(InvalidValue, match="too complex"):
        held(holding(**many), "p", is_strict=True)
    assert held(holding(**dict(list(many.items())[:400])), "p", is_strict=True)
