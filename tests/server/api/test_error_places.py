"""Whatever is wrong in a body, its error names a place that the client wrote: never a class, a type or a tag of ours."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator

import pytest

from server.api.bad_requests import fitted
from server.api.chat_schemas import ChatRequest
from server.api.image_schemas import EditRequest, GenerationRequest
from server.api.wire_object import WireObject
from server.errors import InvalidRequest

URL = {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}
TEXT = {"type": "text", "text": "a"}
CALL = {"type": "function", "id": "c", "function": {"name": "f", "arguments": "{}"}}
NAMED = {"type": "function", "function": {"name": "f"}}
SCHEMA = {"type": "object", "dict": [{"float": 1}]}

CHAT: dict[str, object] = {
    "model": "m",
    "messages": [
        {"role": "user", "content": [TEXT, {**URL, "prompt_cache_breakpoint": {"mode": "explicit"}}], "name": "n"},
        {"role": "system", "content": "a"},
        {"role": "assistant", "content": "a", "images": [URL], "content_parts": [TEXT, {"type": "image_url", "image_index": 0}]},
        {"role": "assistant", "content": [{**TEXT, "annotations": []}], "tool_calls": [CALL], "annotations": []},
        {"role": "tool", "tool_call_id": "c", "content": "a"},
        {"role": "tool", "tool_call_id": "c", "content": [TEXT]},
    ],
    "modalities": ["text", "image"],
    "image": {"size": "64x64", "interval": [0, 1], "renorm": "global", "step_cache": 2, "step_cache_order": 1, "max_images": 1},
    "stop": ["a"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "logit_bias": {"1": 1},
    "metadata": {"a": "b"},
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}}],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    "prediction": {"type": "content", "content": "a"},
    "prompt_cache_options": {"mode": "implicit"},
    "temperature": 1,
    "top_p": 1,
    "n": 1,
    "seed": 1,
    "user": "u",
}
ROWS: list[tuple[type[WireObject], dict[str, object]]] = [
    (ChatRequest, CHAT),
    (ChatRequest, {**CHAT, "stop": "a", "tool_choice": "auto", "prediction": {"type": "content", "content": [TEXT]}}),
    (ChatRequest, {**CHAT, "tool_choice": NAMED}),
    (ChatRequest, {**CHAT, "response_format": None, "structured_outputs": {"choice": ["a"]}}),
    (ChatRequest, {**CHAT, "response_format": None, "structured_outputs": {"json": SCHEMA}}),
    (GenerationRequest, {"prompt": "a", "n": 1, "size": "64x64", "quality": "low", "stream": True, "partial_images": 1, "seed": 1}),
    (EditRequest, {"prompt": "a", "images": [{"image_url": "data:,"}], "text_scale": 1, "background": "auto"}),
]
OURS = re.compile(r"\b([A-Z][a-z]+){2,}\b|constrained|pydantic|instance of|\((string|strings|parts|text|word|prompt)\)")
"""Names of classes and types, and tags of unions."""

WRONG: list[object] = [7, -1.5, True, "", "wrong", [], [7], ["wrong"], [[]], {}, {"type": "wrong"}, {"wrong": 7}, float("nan")]


def spoilt(body: object) -> Iterator[object]:
    """Yield ``body`` with each of its values, however deep, replaced by each wrong one."""
    yield from WRONG
    if isinstance(body, dict | list):
        for place in body if isinstance(body, dict) else range(len(body)):
            for part in spoilt(body[place]):
                changed = copy.copy(body)
                changed[place] = part
                yield changed


def words_of(value: object) -> set[str]:
    """Return every key within ``value``."""
    if isinstance(value, dict):
        return set(value) | {word for part in value.values() for word in words_of(part)}
    return {word for part in value for word in words_of(part)} if isinstance(value, list) else set()


@pytest.mark.parametrize(("schema", "body"), ROWS, ids=[f"{schema.__name__}-{number}" for number, (schema, _) in enumerate(ROWS)])
def test_an_error_names_a_place_that_the_client_wrote(schema: type[WireObject], body: dict[str, object]) -> None:
    """A tool's answer that was no text used to be refused at ``messages[1].content.constrained-str``."""
    fields = set(re.findall(r'"(\w+)": \{', json.dumps(schema.model_json_schema())))
    num_refused = 0
    for changed in spoilt(body):
        try:
            fitted(changed, schema)
        except InvalidRequest as error:
            num_refused += 1
            steps = re.sub(r"\[\d+\]", "", error.param or "").split(".")
            assert set(steps) <= fields | words_of(changed) | {""}, (error.param, error.message)
            assert OURS.search(error.message) is None, error.message
    assert num_refused > 50
