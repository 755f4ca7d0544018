"""Every field that OpenAI's types give to requests and to what they send back is known here, and none of our own names is ever said."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from openai.types import responses as official
from openai.types.responses import response_create_params, response_input_item_param, response_output_item, tool_param
from openai.types.shared_params import Reasoning
from pydantic import BaseModel

from server.api.bad_requests import checked
from server.api.response_items import (
    CallItem,
    CallOutputItem,
    InputImage,
    InputText,
    MessageItem,
    PictureItem,
    ReasoningItem,
    ReferenceItem,
)
from server.api.response_schemas import ReasoningOptions, ResponseRequest, StreamOptions, TextFormat, TextOptions
from server.api.response_tools import AllowedTools, ChosenFunction, ImageTool, ResponseFunction
from server.api.wire_object import WireObject
from server.errors import InvalidRequest, UnknownParameter, UnsupportedParameter

PAIRS: list[tuple[type, type[WireObject]]] = [
    (official.ResponseOutputMessage, MessageItem),
    (official.EasyInputMessageParam, MessageItem),
    (official.ResponseOutputText, InputText),
    (official.ResponseInputTextParam, InputText),
    (official.ResponseInputImageParam, InputImage),
    (official.ResponseReasoningItem, ReasoningItem),
    (response_output_item.ImageGenerationCall, PictureItem),
    (official.ResponseFunctionToolCallItem, CallItem),
    (response_input_item_param.FunctionCallOutput, CallOutputItem),
    (response_input_item_param.ItemReference, ReferenceItem),
    (official.FunctionToolParam, ResponseFunction),
    (tool_param.ImageGeneration, ImageTool),
    (official.ToolChoiceAllowedParam, AllowedTools),
    (official.ToolChoiceFunctionParam, ChosenFunction),
    (official.ResponseTextConfigParam, TextOptions),
    (official.ResponseFormatTextJSONSchemaConfigParam, TextFormat),
    (Reasoning, ReasoningOptions),
    (response_create_params.StreamOptions, StreamOptions),
    (response_create_params.ResponseCreateParamsBase, ResponseRequest),
]


def field_names(kind: type) -> set[str]:
    """Return the fields of an official type, as they are spelled there and on the wire."""
    if issubclass(kind, BaseModel):
        return set(kind.model_fields) | {field.alias for field in kind.model_fields.values() if field.alias}
    return {name for base in kind.__mro__ for name in getattr(base, "__annotations__", {})} | set(kind.__annotations__)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].__name__)
def test_every_field_of_an_official_type_is_known(pair: tuple[type, type[WireObject]]) -> None:
    """``input=[item.model_dump() for item in response.output]`` sends all of them, most as null."""
    theirs, ours = pair
    assert field_names(theirs) <= {*ours.known_names(), *ours.REFUSED}


ITEMS: list[dict[str, object]] = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}, {"type": "input_image", "image_url": "x"}]},
    {"type": "image_generation_call", "id": "ig_1", "result": "x"},
    {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "x"}],
        "content": [{"type": "reasoning_text", "text": "x"}],
    },
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "async": False},
    {"type": "function_call_output", "call_id": "c", "output": "x", "name": "f"},
    {"type": "item_reference", "id": "msg_1"},
]
ALLOWED: dict[str, object] = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}
BODY: dict[str, object] = {
    "model": "tiny_a",
    "input": ITEMS,
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "async": False}, {"type": "image_generation"}],
    "tool_choice": ALLOWED,
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto", "context": "auto", "mode": "standard"},
    "stream_options": {"include_obfuscation": False},
    "metadata": {"a": "b"},
    "include": ["reasoning.encrypted_content"],
}


def test_what_is_taken_apart_below_is_taken_whole() -> None:
    checked(json.dumps(BODY).encode(), ResponseRequest)


WRONG: list[object] = [
    3,
    -1.5,
    True,
    "x",
    "",
    [],
    {},
    [3],
    ["x"],
    [[]],
    [{}],
    {"type": "x"},
    {"type": 3},
    [{"type": "x"}],
    {"x": {}},
    1e400,
]


def spoilt(value: object) -> Iterator[object]:
    """Yield ``value`` with each part of it, at every depth, replaced by each wrong value, and with a field nobody knows."""
    yield from WRONG
    if isinstance(value, dict):
        for name, child in value.items():
            yield from ({**value, name: wrong} for wrong in spoilt(child))
        yield {**value, "zzz": 1}
        yield from ({other: child for other, child in value.items() if other != name} for name in value)
    if isinstance(value, list):
        for place, child in enumerate(value):
            yield from ([*value[:place], wrong, *value[place + 1 :]] for wrong in spoilt(child))


def all_classes(kind: type[WireObject]) -> Iterator[type[WireObject]]:
    yield kind
    for below in kind.__subclasses__():
        yield from all_classes(below)


NAMES = [kind.__name__ for kind in all_classes(WireObject)]
OURS = re.compile(rf"\b(?:{'|'.join(NAMES)})\b|\(\w+\)\.|function-|tagged-union|literal\[|pydantic|constrained")


@pytest.mark.parametrize("field", ResponseRequest.known_names())
def test_no_error_tells_what_our_classes_are_called(field: str) -> None:
    """It did where a union had no discriminator: ``tool_choice.tools[0].ChosenTool.server_label``."""
    for value in spoilt(BODY.get(field, "x")):
        try:
            checked(json.dumps({**BODY, field: value}).replace("Infinity", "1e999").encode(), ResponseRequest)
        except InvalidRequest as error:
            assert OURS.search(f"{error.param} {error.message}") is None, error.message
            assert error.param is None or re.fullmatch(r"[\w\[\].-]+", error.param), error.param


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp", "server_label": "x"}]}},
            "tool_choice.tools[0]",
            "function",
        ),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name", "json_schema"),
    ],
    ids=json.dumps,
)
def test_what_is_missing_or_no_tool_of_ours_is_refused_by_its_place(body: dict[str, object], param: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        checked(json.dumps({"model": "tiny_a", "input": "hi", **body}).encode(), ResponseRequest)
    assert caught.value.param == param and says in caught.value.message


@pytest.mark.parametrize(("name", "nearest"), [("temprature", "temperature"), ("maxOutputTokens", "max_output_tokens"), ("tool", "tools")])
def test_a_slip_is_answered_with_the_name_that_was_meant(name: str, nearest: str) -> None:
    with pytest.raises(UnknownParameter) as caught:
        checked(json.dumps({"model": "tiny_a", "input": "hi", name: 1}).encode(), ResponseRequest)
    assert f"nearest known one is '{nearest}'" in caught.value.message


@pytest.mark.parametrize("name", ["best_of", "echo", "suffix", "guided_json", "logit_bias"])
def test_a_name_like_none_of_ours_suggests_none(name: str) -> None:
    """``stop`` was answered with top_p."""
    with pytest.raises(UnknownParameter) as caught:
        checked(json.dumps({"model": "tiny_a", "input": "hi", name: 1}).encode(), ResponseRequest)
    assert "nearest" not in caught.value.message


def test_stop_is_refused_with_what_to_do() -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        checked(json.dumps({"model": "tiny_a", "input": "hi", "stop": ["x"]}).encode(), ResponseRequest)
    assert caught.value.param == "stop"
