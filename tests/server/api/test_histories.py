"""Answers come back as history in every form that clients give them: by their own helpers, or as recorded from them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from openai import pydantic_function_tool
from openai.types.chat import ChatCompletionMessageParam, ParsedChatCompletionMessage
from pydantic import BaseModel

from server.messages import ImageSegment, Request
from tests.server.api.chats import STORY, error_of, hello, spelled, story, tokens, user
from tests.server.picture_files import picture_uri
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import Output, ScriptedEngine, finish

MODEL = "tiny_a"
HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
CALL = '<tool_call>\n{"name": "City", "arguments": {"name": "Rome"}}\n</tool_call>'


class City(BaseModel):
    name: str


TOOL = pydantic_function_tool(City)


def by_prompt(request: Request) -> list[list[Output]]:
    """Tell a story, call a tool or answer in JSON, as the prompt and its grammar say; else say hello."""
    grammar = request.sampling.grammar or ""
    if "tool_call" in grammar:
        return [*tokens(request, CALL), [finish(request)]]
    if grammar:
        return [*tokens(request, '{"name":"Rome"}'), [finish(request)]]
    spoken = spelled(request)[0]
    return (story if spoken == "story" else hello)(request)


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(by_prompt)) as running:
        yield running


def prompt_of(front: RunningFront) -> list[str]:
    return spelled(front.engine.requests[-1])


def ask(front: RunningFront, answer: dict[str, object], **fields: object) -> list[str]:
    """Send an answer back between two messages; return the prompt that the engine got."""
    body = {"model": MODEL, "messages": [user("hi"), answer, user("on")], **fields}
    with front.http() as http:
        response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return prompt_of(front)


def test_an_answer_without_pictures_has_the_official_fields_alone(front: RunningFront) -> None:
    """An empty ``images`` made LangChain.js turn the text into a list, and litellm moved ``content_parts`` elsewhere."""
    message = front.openai().chat.completions.create(model=MODEL, messages=HI).choices[0].message
    assert message.model_extra == {}


def test_a_parsed_answer_is_taken_as_history(front: RunningFront) -> None:
    client = front.openai()
    message = client.chat.completions.parse(model=MODEL, messages=HI, response_format=City).choices[0].message
    assert message.parsed == City(name="Rome")
    # Of the type it is said to have: the client makes it one whose ``parsed`` is None, and pydantic warns of that when it is sent.
    said = ParsedChatCompletionMessage[City].model_construct(**dict(message))
    client.chat.completions.create(model=MODEL, messages=[*HI, said, *HI])  # type: ignore[list-item]
    assert prompt_of(front) == ["hi", '{"name":"Rome"}', "hi"]


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_parsed_call_is_taken_as_history(front: RunningFront, is_stream: bool) -> None:
    client = front.openai()
    if is_stream:
        with client.chat.completions.stream(model=MODEL, messages=HI, tools=[TOOL]) as stream:
            message = stream.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.parse(model=MODEL, messages=HI, tools=[TOOL]).choices[0].message
    assert message.tool_calls and message.tool_calls[0].function.parsed_arguments == City(name="Rome")
    answer: ChatCompletionMessageParam = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sun"}
    client.chat.completions.create(model=MODEL, messages=[*HI, message, answer])  # type: ignore[list-item]
    assert prompt_of(front) == ["hi", CALL, "<tool_response>\nsun\n</tool_response>"]


@pytest.mark.parametrize("arguments", [None, {"name": "Rome"}])
def test_calls_that_a_helper_has_parsed_are_taken_as_they_were(front: RunningFront, arguments: object) -> None:
    """As `runTools` of the official JavaScript client sends them."""
    function = {"name": "City", "arguments": '{"name": "Rome"}', "parsed_arguments": arguments}
    call = {"id": "c", "type": "function", "function": function}
    assert ask(front, {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]})[1] == CALL


def told(front: RunningFront) -> dict[str, object]:
    """Return an answer of words and pictures as JSON."""
    body = {"model": MODEL, "messages": [user("story")], "modalities": ["text", "image"]}
    with front.http() as http:
        message: dict[str, object] = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    return message


IN_ORDER = ["hi", STORY[0], "picture", STORY[1], "picture", "on"]
WORDS_FIRST = ["hi", "".join(STORY), "picture", "picture", "on"]


def test_pictures_keep_their_place_where_litellm_keeps_their_order(front: RunningFront) -> None:
    answer = told(front)
    kept = {"refusal": None, "content_parts": answer.pop("content_parts")}
    litellm = {**answer, "tool_calls": None, "function_call": None, "provider_specific_fields": kept}
    assert ask(front, litellm) == IN_ORDER


@pytest.mark.parametrize(
    "kept", [{"content_parts": "none"}, {"content_parts": [{"type": "image_url", "image_index": 7}]}, {"citations": [1]}, {}]
)
def test_what_is_no_order_of_this_answer_has_no_effect(front: RunningFront, kept: dict[str, object]) -> None:
    answer = told(front)
    del answer["content_parts"]
    assert ask(front, {**answer, "provider_specific_fields": kept}) == WORDS_FIRST


def test_an_answer_whose_words_were_changed_is_read_as_it_is_now(front: RunningFront) -> None:
    answer = told(front)
    kept = {"content_parts": answer.pop("content_parts")}
    assert ask(front, {**answer, "content": "Never.", "provider_specific_fields": kept})[1] == "Never."


def test_pictures_keep_their_place_where_the_agents_library_sends_them_beside_the_words(front: RunningFront) -> None:
    """As `@openai/agents` sends an answer back: its message's fields within its text part."""
    message = told(front)
    part = {"type": "text", "text": message.pop("content"), **message}
    assert set(part) == {"type", "text", "role", "refusal", "annotations", "images", "content_parts"}
    assert ask(front, {"role": "assistant", "content": [part]}) == IN_ORDER


def test_words_alone_come_back_from_the_agents_library(front: RunningFront) -> None:
    said: dict[str, object] = {"role": "assistant", "refusal": None, "annotations": [], "images": [], "content_parts": []}
    parts = [{"type": "text", "text": "a", **said}, {"type": "text", "text": "b", "annotations": []}]
    assert ask(front, {"role": "assistant", "content": parts}) == ["hi", "a\nb", "on"]


def test_what_clients_say_of_a_picture_besides_its_address_has_no_effect(front: RunningFront) -> None:
    """Strands sends ``format``; the official client knows ``detail: original`` and breakpoints of the cache."""
    told = {"url": picture_uri(), "detail": "original", "format": "image/png"}
    mark = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    parts = [{"type": "text", "text": "see", **mark}, {"type": "image_url", "image_url": told, **mark}]
    with front.http() as http:
        response = http.post("/v1/chat/completions", json={"model": MODEL, "messages": [user(parts)]})
    assert response.status_code == 200, response.text
    assert isinstance(front.engine.requests[-1].segments[-1], ImageSegment)


def test_a_tool_that_answers_with_a_picture_is_told_where_pictures_go(front: RunningFront) -> None:
    rows: list[tuple[object, str]] = [
        ([{"type": "image_url", "image_url": {"url": picture_uri()}}], "messages[0].content[0].image_url"),
        (7, "messages[0].content"),
    ]
    with front.http() as http:
        for content, param in rows:
            answer = {"role": "tool", "tool_call_id": "c", "content": content}
            response = http.post("/v1/chat/completions", json={"model": MODEL, "messages": [answer]})
            assert (response.status_code, error_of(response)["param"]) == (400, param)


def test_a_field_that_is_null_counts_as_left_out_whatever_its_name(front: RunningFront) -> None:
    body = {"model": MODEL, "messages": [{**user("hi"), "reasoning": None}], "error": None, "audio": None}
    with front.http() as http:
        response = http.post("/v1/chat/completions", content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code == 200, response.text
