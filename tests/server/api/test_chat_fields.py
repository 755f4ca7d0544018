"""The table of request fields: complete, in step with the schema and with the page in the docs, and true."""

from __future__ import annotations

from pathlib import Path
from typing import get_type_hints

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming

from server.api.bad_requests import checked
from server.api.chat_fields import FIELDS, FieldRule, Origin, Treatment, described_fields, field_table, refused_fields
from server.api.chat_schemas import ChatRequest
from server.errors import UnknownParameter, UnsupportedParameter

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "chat-fields.md"
BODY = '"model": "m", "messages": [{"role": "user", "content": "hi"}]'


def test_the_table_knows_every_field_of_the_official_client() -> None:
    official = {*get_type_hints(CompletionCreateParamsNonStreaming), *get_type_hints(CompletionCreateParamsStreaming)}
    assert official == {rule.name for rule in FIELDS if rule.origin is Origin.OPENAI}


def test_the_table_names_each_field_once() -> None:
    names = [rule.name for rule in FIELDS]
    assert len(names) == len(set(names))


def test_what_the_table_accepts_is_what_the_schema_has() -> None:
    assert set(described_fields()) == set(ChatRequest.model_fields)


def test_the_page_in_the_docs_is_the_table() -> None:
    assert PAGE.read_text() == field_table()


def test_the_schema_describes_each_field_by_the_table() -> None:
    properties = ChatRequest.model_json_schema()["properties"]
    assert {name: properties[name]["description"] for name in properties} == described_fields()


@pytest.mark.parametrize("name", refused_fields())
def test_a_refused_field_is_refused_by_its_name_with_what_to_do(name: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        checked(f'{{{BODY}, "{name}": {{}}}}'.encode(), ChatRequest)
    assert caught.value.param == name
    assert refused_fields()[name] in caught.value.message


@pytest.mark.parametrize("rule", [rule for rule in FIELDS if rule.treatment is not Treatment.REFUSED], ids=lambda rule: rule.name)
def test_a_misspelled_field_is_answered_with_the_nearest_known_name(rule: FieldRule) -> None:
    with pytest.raises(UnknownParameter) as caught:
        checked(f'{{{BODY}, "{rule.name}_": 1}}'.encode(), ChatRequest)
    assert caught.value.param == f"{rule.name}_" and f"nearest known one is '{rule.name}'" in caught.value.message
