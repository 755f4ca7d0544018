"""Grammars made in processes of their own: the same as anywhere, and no schema takes longer than it may."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import JsonValue

from server.errors import InvalidValue, UnsupportedParameter
from server.serving.asks import Ask, ChoiceForm, JsonForm, PatternForm, Tool, ToolUse
from server.serving.grammar_writers import GrammarWriters
from server.serving.grammars import answer_grammar

PARAM = "response_format.json_schema.schema"
MINUTES: list[dict[str, JsonValue]] = [
    {"allOf": [{"type": "string", "pattern": f".*{letter}.{{5}}.*"} for letter in "abcdefghijklmnopqrst"]},
    {"type": "integer", "multipleOf": 10_000_019},
]
"""Schemas of a few words on which the library works for minutes."""


@pytest.fixture(scope="module")
def writers() -> Iterator[GrammarWriters]:
    writers = GrammarWriters(num_writers=1)
    yield writers
    writers.close()


def json_ask(schema: dict[str, JsonValue]) -> Ask:
    return Ask([], text_form=JsonForm(schema, PARAM))


def test_a_grammar_is_that_of_the_ask(writers: GrammarWriters) -> None:
    tools = [Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}}, "tools[0].function.parameters")]
    for ask in (
        json_ask({"type": "object", "properties": {"ż": {"type": "integer"}}}),
        Ask([], thinks=True, tool_use=ToolUse(tools, must_call=False, is_parallel=True)),
        Ask([], text_form=ChoiceForm(["yes", "no"], "structured_outputs.choice")),
        Ask([], text_form=PatternForm("[a-z]{3}", "structured_outputs.regex")),
        Ask([], tool_use=ToolUse([Tool("stop", None, None, "tools[0]")], must_call=True, is_parallel=False)),
    ):
        assert writers.grammar(ask) == answer_grammar(ask)
    assert writers.grammar(Ask([])) is None


def test_what_answers_cannot_be_held_to_is_refused_by_name(writers: GrammarWriters) -> None:
    with pytest.raises(UnsupportedParameter, match="'not' at its top") as caught:
        writers.grammar(json_ask({"not": {"type": "string"}}))
    assert caught.value.param == PARAM


@pytest.mark.parametrize("schema", MINUTES, ids=["patterns at once", "a large divisor"])
def test_a_schema_that_would_take_minutes_is_refused_and_the_next_one_read(writers: GrammarWriters, schema: dict[str, JsonValue]) -> None:
    """It kept a thread busy for that long: six of them, and no request at all was prepared any more."""
    with pytest.raises(InvalidValue, match="too complex") as caught:
        writers.grammar(json_ask(schema))
    assert caught.value.param == PARAM
    assert writers.grammar(json_ask({"type": "string"})) == answer_grammar(json_ask({"type": "string"}))
