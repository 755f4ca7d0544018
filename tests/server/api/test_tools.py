"""Tools and thoughts in chat, through the official client: what the model is told, what comes back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from openai import pydantic_function_tool
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from server.messages import Request, TextSegment
from tests.server.api.chats import TOKENIZER, hello, spelled, stream_events, tokens, user
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import Output, ScriptedEngine, finish

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Łódź"}}\n</tool_call>'
THOUGHT = "<think>\nLet me see.\n</think>\n\nIt rains."
SEEN = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


class GetWeather(BaseModel):
    city: str


TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "get_weather", "description": "now", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CLOCK: ChatCompletionToolParam = {"type": "function", "function": {"name": "get_time"}}


def by_prompt(request: Request) -> list[list[Output]]:
    """Call a tool where a grammar speaks of one; think where the prompt says so; else say hello."""
    if "tool_call" in (request.sampling.grammar or ""):
        return [*tokens(request, f"I look.\n{CALL}\n{CALL}"), [finish(request)]]
    if "<think>" in spelled(request)[0]:
        return [*tokens(request, THOUGHT), [finish(request)]]
    return hello(request)


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(by_prompt)) as running:
        yield running


def prompt_of(front: RunningFront) -> list[str]:
    return spelled(front.engine.requests[-1])


def test_calls_come_as_tool_calls_beside_the_words(front: RunningFront) -> None:
    choice = front.openai().chat.completions.create(model="tiny_a", messages=MESSAGES, tools=[TOOL]).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == "I look."
    calls = choice.message.tool_calls or []
    assert [json.loads(call.function.arguments) for call in calls if call.type == "function"] == [{"city": "Łódź"}] * 2
    assert len({call.id for call in calls}) == 2


def test_the_stream_helper_parses_the_calls_into_their_type(front: RunningFront) -> None:
    tool = pydantic_function_tool(GetWeather, name="get_weather")
    with front.openai().chat.completions.stream(model="tiny_a", messages=MESSAGES, tools=[tool]) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.done" in kinds and message.content == "I look."
    assert [call.function.parsed_arguments for call in message.tool_calls or []] == [GetWeather(city="Łódź")] * 2


def test_the_prompt_lists_the_tools_and_the_history_holds_calls_and_results(front: RunningFront) -> None:
    answer = front.openai().chat.completions.create(model="tiny_a", messages=MESSAGES, tools=[TOOL]).choices[0].message
    assert answer.tool_calls
    history = [*MESSAGES, answer.model_dump(), {"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "rain"}]
    with front.http() as http:
        events = stream_events(http, {"messages": history, "tools": [TOOL], "tool_choice": "none"})
        assert events[-1].payload == "[DONE]"
        stream_events(http, {"messages": history, "tools": [TOOL, CLOCK]})
    tools, _, said, seen = prompt_of(front)
    assert '<tools>\n{"type": "function", "function": {"name": "get_weather", "description": "now"' in tools and "get_time" in tools
    assert said == f"I look.\n{CALL}\n{CALL}" and seen == "<tool_response>\nrain\n</tool_response>"


def test_only_the_server_itself_can_spell_the_tags_of_a_call(front: RunningFront) -> None:
    """A client's text with a tag in it is letters; in a tool's description the tag is escaped."""
    tool = {"type": "function", "function": {"name": "f", "description": "</tool_call> is a tag"}}
    with front.http() as http:
        stream_events(http, {"messages": [user("<tool_call>")], "tools": [tool]})
    listed, spoken = prompt_of(front)
    assert "\\u003c/tool_call> is a tag" in listed and spoken == "<tool_call>"
    last = front.engine.requests[-1].segments[1]
    assert isinstance(last, TextSegment) and last.token_ids == TOKENIZER.encode("<tool_call>")


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", ["get_weather", "get_time"]),
        ({"type": "function", "function": {"name": "get_time"}}, ["get_time"]),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_time"}}]},
            },
            ["get_time"],
        ),
    ],
)
def test_a_call_that_must_come_is_forced_and_may_be_any_allowed_one(front: RunningFront, choice: object, names: list[str]) -> None:
    with front.http() as http:
        stream_events(http, {"tools": [TOOL, CLOCK], "tool_choice": choice})
    grammar = front.engine.requests[-1].sampling.grammar or ""
    assert [name for name in ("get_weather", "get_time") if f'"name\\": \\"{name}' in grammar] == names
    assert "before" not in grammar.splitlines()[2]


@pytest.mark.parametrize(
    "fields", [{"tools": [TOOL], "tool_choice": "none"}, {"tool_choice": "auto"}, {"tools": [], "tool_choice": "auto"}]
)
def test_no_call_is_possible_where_none_may_come(front: RunningFront, fields: dict[str, object]) -> None:
    """Frameworks whose agents may have tools say ``auto`` with those that have none too."""
    with front.http() as http:
        stream_events(http, fields)
    assert front.engine.requests[-1].sampling.grammar is None and len(prompt_of(front)) == 1


PARAMETERS = "tools[0].function.parameters"
ROWS: list[tuple[dict[str, object], str, str]] = [
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "leap"}}}, "tool_choice", "invalid_value"),
    ({"tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice", "invalid_value"),
    ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].custom", "unsupported_parameter"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 1}}}]}, PARAMETERS, "invalid_value"),
    ({"tools": [TOOL], "modalities": ["text", "image"]}, "tools", "unsupported_parameter"),
    ({"tools": [TOOL], "ignore_eos": True}, "ignore_eos", "unsupported_parameter"),
    ({"tools": [{"type": "function", "function": {"name": f"f{number}"}} for number in range(129)]}, "tools", "invalid_value"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param", "code"), ROWS, ids=[f"{row[1]}-{number}" for number, row in enumerate(ROWS)])
def test_bad_tools_are_refused_by_name(front: RunningFront, body: dict[str, object], param: str, code: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        front.openai().chat.completions.create(model="tiny_a", messages=MESSAGES, extra_body=body)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_a_family_that_was_taught_no_tools_refuses_them_by_name() -> None:
    with running_front(ScriptedEngine(by_prompt), family="interleaved") as front:
        for body, param in (({"tools": [TOOL]}, "tools"), ({"messages": [*MESSAGES, past_call()]}, "messages[1]")):
            with pytest.raises(openai.BadRequestError) as caught:
                front.openai().chat.completions.create(model="tiny_a", messages=MESSAGES, extra_body=body)
            assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


def past_call(arguments: str = '{"city": "Rome"}') -> dict[str, object]:
    return {
        "role": "assistant",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}],
    }


def test_a_call_of_an_earlier_answer_is_told_as_the_model_would_have_written_it(front: RunningFront) -> None:
    with front.http() as http:
        stream_events(http, {"messages": [*MESSAGES, past_call()]})
    assert prompt_of(front)[1] == SEEN


@pytest.mark.parametrize("arguments", ['{"city": "\\ud800"}', "[" * 1500, "no json"])
def test_arguments_of_an_earlier_call_that_are_no_json_we_can_write_are_told_as_they_are(front: RunningFront, arguments: str) -> None:
    """Half a surrogate pair, lists too deep: both were errors of the server's."""
    with front.http() as http:
        stream_events(http, {"messages": [*MESSAGES, past_call(arguments)]})
    assert json.dumps(arguments)[1:-1] in prompt_of(front)[1]


def test_thoughts_come_apart_from_the_answer_and_are_counted(front: RunningFront) -> None:
    completion = front.openai().chat.completions.create(model="tiny_a", messages=MESSAGES, extra_body={"think": True})
    message = completion.choices[0].message
    assert message.content == "It rains." and message.model_dump()["reasoning_content"] == "Let me see."
    assert completion.usage is not None and completion.usage.completion_tokens_details is not None
    num_spelled = len(TOKENIZER.encode(THOUGHT))
    counted = completion.usage.completion_tokens_details.reasoning_tokens or 0
    assert 0 < counted < num_spelled


def test_thoughts_stream_in_a_field_of_their_own(front: RunningFront) -> None:
    with front.http() as http:
        chunks = [json.loads(event.payload) for event in stream_events(http, {"think": True})[:-1]]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Let me see."
    assert "".join(delta.get("content", "") for delta in deltas) == "It rains."
