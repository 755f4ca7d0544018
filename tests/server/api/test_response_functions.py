"""Functions in the Responses API: offered, called in items and events of the official types, answered, and refused where they cannot be."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from openai.types.responses import FunctionToolParam, Response, ResponseInputParam, ResponseStreamEvent
from pydantic import TypeAdapter

from server.messages import ImageSegment, Request, TextSegment
from tests.server.api.chats import TOKENIZER, error_of, hello, server_events, tokens
from tests.server.picture_files import picture_uri
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import Output, ScriptedEngine, finish

MODEL = "tiny_a"
ARGUMENTS = '{"city": "Łódź"}'
CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
PARAMETERS: dict[str, object] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: FunctionToolParam = {"type": "function", "name": "get_weather", "description": "now", "parameters": PARAMETERS, "strict": True}
CLOCK: dict[str, object] = {"type": "function", "name": "get_time"}
DRAW: dict[str, object] = {"type": "image_generation"}
EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


def by_grammar(request: Request) -> list[list[Output]]:
    """Say a word and call a function twice where a grammar speaks of calls, else say hello."""
    if "tool_call" in (request.sampling.grammar or ""):
        return [*tokens(request, f"I look.\n{CALL}\n{CALL}"), [finish(request)]]
    return hello(request)


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(by_grammar)) as running:
        yield running


def post(front: RunningFront, **fields: object) -> httpx.Response:
    with front.http() as http:
        return http.post("/v1/responses", json={"model": MODEL, "input": "hi", "tools": [WEATHER], **fields})


def grammar_of(front: RunningFront) -> str:
    return front.engine.requests[-1].sampling.grammar or ""


def prompt_of(front: RunningFront) -> str:
    segments = front.engine.requests[-1].segments
    return "".join(TOKENIZER.decode(segment.token_ids) for segment in segments if isinstance(segment, TextSegment))


def test_calls_are_items_behind_the_words(front: RunningFront) -> None:
    response = Response.model_validate_json(post(front).content, strict=True)
    assert [item.type for item in response.output] == ["message", "function_call", "function_call"]
    assert response.output_text == "I look."
    calls = [item for item in response.output if item.type == "function_call"]
    assert [(call.name, call.arguments, call.status) for call in calls] == [("get_weather", ARGUMENTS, "completed")] * 2
    assert len({call.call_id for call in calls}) == len({call.id for call in calls}) == 2


def test_the_events_of_a_call_are_the_official_ones(front: RunningFront) -> None:
    body = {"model": MODEL, "input": "hi", "tools": [WEATHER], "stream": True}
    with front.http() as http, http.stream("POST", "/v1/responses", json=body) as response:
        events = [EVENT.validate_json(event.payload, strict=True) for event in server_events(response.iter_lines())]
    first_call = [event for event in events if getattr(event, "output_index", None) == 1]
    assert [event.type for event in first_call] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    done = first_call[2]
    assert done.type == "response.function_call_arguments.done" and done.arguments == ARGUMENTS
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_a_call_keeps_its_id_when_another_engine_goes_on() -> None:
    """It had another one in the finished response than where it was first said: answers to it found no call."""

    def script(request: Request) -> list[list[Output]]:
        return [*tokens(request, f"{CALL}\n{CALL}"), [], [finish(request)]]

    with running_front(ScriptedEngine(script)) as front, front.openai() as client:
        stream = client.responses.create(model=MODEL, input="hi", tools=[WEATHER], stream=True)
        first = next(event for event in stream if event.type == "response.output_item.done")
        front.engine.crash()
        front.engine.wait_until(lambda: front.engine.num_starts == 2)
        front.engine.release()
        *_, second, last = stream
    assert second.type == "response.output_item.done" and last.type == "response.completed"
    assert [first.item, second.item] == last.response.output


def test_the_official_client_assembles_the_calls_of_a_stream(front: RunningFront) -> None:
    with front.openai().responses.stream(model=MODEL, input="hi", tools=[WEATHER]) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    assert deltas == [ARGUMENTS] * 2
    assert [item.arguments for item in final.output if item.type == "function_call"] == deltas


def test_a_calls_answer_goes_back_in_with_the_call(front: RunningFront) -> None:
    client = front.openai()
    first = client.responses.create(model=MODEL, input="hi", tools=[WEATHER])
    answers: ResponseInputParam = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "rain"} for item in first.output if item.type == "function_call"
    ]
    client.responses.create(model=MODEL, input=answers, previous_response_id=first.id)
    prompt = prompt_of(front)
    assert prompt.count(f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>') == 2
    assert prompt.count("<tool_response>\nrain\n</tool_response>") == 2


def test_calls_go_back_in_as_the_official_client_dumps_them(front: RunningFront) -> None:
    """It knows ``async`` of a call, and name and namespace of what it gave: all of them unknown here."""
    client = front.openai()
    first = client.responses.create(model=MODEL, input="hi", tools=[WEATHER])
    dumped = [item.model_dump() for item in first.output]
    output = {"type": "function_call_output", "call_id": "c1", "output": "rain", "name": "get_weather", "namespace": None}
    tool = {**WEATHER, "async": False}
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "async": False}
    second = post(front, input=[*dumped, call, output], tools=[tool])
    assert second.status_code == 200, second.text
    assert second.json()["tools"][0]["async"] is False
    assert post(front, previous_response_id=second.json()["id"]).status_code == 200


def test_responses_and_chat_tell_the_model_the_same(front: RunningFront) -> None:
    call = {"call_id": "c1", "name": "get_weather", "arguments": ARGUMENTS}
    items = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "I look."},
        {"type": "function_call", **call},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
    ]
    assert post(front, input=items).status_code == 200
    request = front.engine.requests[-1]
    function = {"name": "get_weather", "arguments": ARGUMENTS}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "I look.", "tool_calls": [{"type": "function", "id": "c1", "function": function}]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    chat_tool = {"type": "function", "function": {"name": "get_weather", "description": "now", "parameters": PARAMETERS}}
    with front.http() as http:
        assert http.post("/v1/chat/completions", json={"model": MODEL, "messages": messages, "tools": [chat_tool]}).status_code == 200
    assert front.engine.requests[-1].segments == request.segments
    assert front.engine.requests[-1].sampling.grammar == request.sampling.grammar


def test_a_function_may_answer_with_a_picture(front: RunningFront) -> None:
    output = [{"type": "input_text", "text": "the sky"}, {"type": "input_image", "image_url": picture_uri()}]
    items = [
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": output},
    ]
    assert post(front, input=items).status_code == 200
    assert any(isinstance(segment, ImageSegment) for segment in front.engine.requests[-1].segments)
    assert "<tool_response>\nthe sky\n</tool_response>" in prompt_of(front)


@pytest.mark.parametrize(
    ("choice", "may_call", "may_talk"),
    [
        ("auto", {"get_weather", "get_time"}, True),
        ("required", {"get_weather", "get_time"}, False),
        ({"type": "function", "name": "get_time"}, {"get_time"}, False),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_time"}]}, {"get_time"}, True),
        ("none", set(), True),
    ],
)
def test_the_choice_decides_which_functions_may_be_called(front: RunningFront, choice: object, may_call: set[str], may_talk: bool) -> None:
    answer = post(front, tools=[WEATHER, CLOCK], tool_choice=choice)
    assert answer.status_code == 200, answer.text
    assert answer.json()["tool_choice"] == choice
    grammar = grammar_of(front)
    assert {name for name in ("get_weather", "get_time") if name in grammar} == may_call
    assert (not grammar or "before" in grammar.partition("answer:")[2].partition("\n")[0]) == may_talk


AS_WRITTEN_BY_LIBRARIES: dict[str, object] = {
    "path": {"type": "string", "format": "path"},
    "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    "notes": {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "string"}},
    "name": {"type": "string", "pattern": "^(?!x).*$"},
}


def test_a_tool_as_pydantic_and_zod_write_it_is_offered(front: RunningFront) -> None:
    """One such schema failed the whole request."""
    parameters = {"type": "object", "properties": AS_WRITTEN_BY_LIBRARIES}
    answer = post(front, tools=[{"type": "function", "name": "get_weather", "parameters": parameters}])
    assert answer.status_code == 200, answer.text
    shown = Response.model_validate_json(answer.content, strict=True).tools[0]
    assert shown.type == "function" and (shown.parameters, shown.strict) == (parameters, None)


@pytest.mark.parametrize("name", ["tags", "name"])
def test_a_strict_tool_is_refused_where_calls_could_not_be_held_to_it(front: RunningFront, name: str) -> None:
    parameters = {"type": "object", "properties": {name: AS_WRITTEN_BY_LIBRARIES[name]}}
    answer = post(front, tools=[{**WEATHER, "parameters": parameters}])
    assert (answer.status_code, error_of(answer)["param"]) == (400, "tools[0].parameters")
    assert f"at properties.{name}" in str(error_of(answer)["message"])


def test_one_call_at_a_time_when_asked_for(front: RunningFront) -> None:
    assert post(front, tool_choice="required", parallel_tool_calls=False).json()["parallel_tool_calls"] is False
    assert "next*" not in grammar_of(front)


def test_the_answer_of_a_function_may_leave_out_whose_it_is(front: RunningFront) -> None:
    """OpenAI's description lets ``call_id`` be null; answers are read in the order in which they stand."""
    response_id = post(front, input=[{"type": "function_call_output", "call_id": None, "output": "rain"}]).json()["id"]
    with front.http() as http:
        (listed,) = http.get(f"/v1/responses/{response_id}/input_items").json()["data"]
    assert (listed["type"], listed["output"], "call_id" in listed) == ("function_call_output", "rain", False)


def test_what_was_asked_is_listed_with_its_calls(front: RunningFront) -> None:
    items = [
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
    ]
    response_id = post(front, input=items).json()["id"]
    listed = front.openai().responses.input_items.list(response_id, order="asc").data
    assert [item.type for item in listed] == ["function_call", "function_call_output"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [WEATHER, DRAW]}, "tools", "unsupported_parameter"),
        ({"tools": [WEATHER, WEATHER]}, "tools", "invalid_value"),
        ({"tools": [{**WEATHER, "parameters": {"type": "nothing"}}]}, "tools[0].parameters", "invalid_value"),
        ({"tools": [{**WEATHER, "parameters": {"type": "string"}}], "tool_choice": "required"}, "tools[0].parameters", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
        ({"tool_choice": {"type": "function", "name": "other"}}, "tool_choice", "invalid_value"),
        ({"tool_choice": DRAW}, "tool_choice", "invalid_value"),
        ({"tools": [{**WEATHER, "colour": 1}]}, "tools[0].colour", "unknown_parameter"),
    ],
    ids=json.dumps,
)
def test_what_cannot_be_is_refused_by_its_name(front: RunningFront, fields: dict[str, object], param: str, code: str) -> None:
    answer = post(front, **fields)
    assert (answer.status_code, error_of(answer)["param"], error_of(answer)["code"]) == (400, param, code)


def test_drawing_and_calling_may_both_be_offered_where_the_choice_says_which(front: RunningFront) -> None:
    choice = {"type": "function", "name": "get_weather"}
    assert post(front, tools=[DRAW, WEATHER], tool_choice=choice).status_code == 200
    assert "get_weather" in grammar_of(front)
