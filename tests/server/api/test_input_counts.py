"""A response's prompt counted before it is asked: by the same body, in the measure of its usage, and nothing is begun."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.server.api.chats import TOKENIZER, error_of, hello
from tests.server.picture_files import picture_uri
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

MODEL = "tiny_a"
HELLO = len(TOKENIZER.encode("hello")) + 2
"""Tokens of the word as a segment, with its begin and end."""


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(hello)) as running:
        yield running


@pytest.fixture(scope="module")
def http(front: RunningFront) -> Iterator[httpx.Client]:
    with front.http() as client:
        yield client


def counted(http: httpx.Client, **body: object) -> int:
    answer = http.post("/v1/responses/input_tokens", json={"model": MODEL, **body})
    assert answer.status_code == 200, answer.text
    count: int = answer.json()["input_tokens"]
    return count


def test_the_official_client_counts_without_naming_a_model(front: RunningFront) -> None:
    count = front.openai().responses.input_tokens.count(input="hello", instructions="hello")

    assert (count.object, count.input_tokens) == ("response.input_tokens", 2 * HELLO)
    assert not front.engine.requests


def test_what_was_said_before_counts(http: httpx.Client) -> None:
    before = http.post("/v1/responses", json={"model": MODEL, "input": "hello"}).json()
    answered = len(TOKENIZER.encode("hello wörld 🙂")) + 2

    assert counted(http, input="hello", previous_response_id=before["id"]) == 2 * HELLO + answered
    assert counted(http, input=[{"id": before["output"][0]["id"]}, {"role": "user", "content": "hello"}]) == HELLO + answered


def test_a_picture_counts_as_it_is_read(http: httpx.Client) -> None:
    """Once for words about it; for pictures to come a second time, as what they are made from."""
    items = [{"role": "user", "content": [{"type": "input_image", "image_url": picture_uri(112, 112)}]}]
    looked_at = counted(http, input=items)
    drawn_from = counted(http, input=items, tools=[{"type": "image_generation"}])

    assert looked_at > 2 and drawn_from > looked_at


def test_tools_count(http: httpx.Client) -> None:
    tools = [{"type": "function", "name": "lamp", "parameters": {"type": "object"}}]
    assert counted(http, input="hello", tools=tools) > HELLO == counted(http, input="hello", tools=tools, tool_choice="none")


@pytest.mark.parametrize("fields", [{"partial_images": 2}, {"model": MODEL}], ids=str)
def test_what_a_tool_says_of_the_answer_alone_is_no_hindrance(http: httpx.Client, fields: dict[str, object]) -> None:
    """Such a tool was refused: for want of a stream, and for want of a model beside its own."""
    answer = http.post("/v1/responses/input_tokens", json={"input": "hello", "tools": [{"type": "image_generation", **fields}]})
    assert (answer.status_code, answer.json().get("input_tokens")) == (200, HELLO)


def test_a_prompt_that_is_too_long_is_counted_all_the_same(http: httpx.Client) -> None:
    assert counted(http, input="hello " * 5000) > 5000


def test_a_prompt_that_is_too_long_by_far_is_refused_before_all_of_it_is_read(http: httpx.Client) -> None:
    """A body as large as one may be was read to its last word, which takes minutes."""
    answer = http.post("/v1/responses/input_tokens", json={"input": "1" * 200_000})
    assert (answer.status_code, error_of(answer)["code"], error_of(answer)["param"]) == (400, "context_length_exceeded", "input")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "input"),
        ({"input": "a", "model": "other"}, 404, "model"),
        ({"input": "a", "tools": [{"type": "image_generation", "model": "other"}]}, 404, "model"),
        ({"input": "a", "model": MODEL, "tools": [{"type": "image_generation", "model": "other"}]}, 400, "tools[0].model"),
        ({"input": "a", "imput": "b"}, 400, "imput"),
        ({"input": "a", "previous_response_id": "resp_0"}, 400, "previous_response_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-0"}]}]}, 400, "input[0].content[0].file_id"),
    ],
)
def test_what_cannot_be_counted_is_refused(http: httpx.Client, body: dict[str, object], status: int, param: str) -> None:
    answer = http.post("/v1/responses/input_tokens", json=body)
    assert (answer.status_code, error_of(answer)["param"]) == (status, param)
