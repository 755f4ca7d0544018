"""Text that tries to be more than text: special tokens, odd numbers, doubled fields, ids that forge log lines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from server.messages import TextSegment
from tests.server.api.chats import hello, user
from tests.server.attacks.refusals import assert_gives_nothing_away
from tests.server.running_front import GOLDEN, RunningFront, golden_model, running_front
from tests.server.scripted_engine import ScriptedEngine

SPECIAL = {
    entry["content"]: int(token_id)
    for token_id, entry in json.loads((GOLDEN / "tokenizer_config.json").read_text())["added_tokens_decoder"].items()
}


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(hello)) as front:
        yield front


def text_ids_sent(front: RunningFront, text: str) -> list[int]:
    with front.http() as http:
        response = http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": [user(text)]})
    assert response.status_code == 200, response.text
    (segment,) = front.engine.requests[-1].segments
    assert isinstance(segment, TextSegment), "words are never a picture"
    return segment.token_ids


def test_there_are_special_tokens_to_try() -> None:
    assert {"<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"} <= SPECIAL.keys()


@pytest.mark.parametrize("token", SPECIAL)
@pytest.mark.parametrize("around", ["{}", "a {} b", "{}{}", "<{}>", "\n{}\n"])
def test_a_special_token_in_a_client_s_text_is_ordinary_text(front: RunningFront, token: str, around: str) -> None:
    text = around.format(token, token) if around == "{}{}" else around.format(token)
    ids = text_ids_sent(front, text)
    assert not set(ids) & set(SPECIAL.values())
    assert golden_model().tokenizer.decode(ids) == text


def test_all_special_tokens_at_once_are_ordinary_text(front: RunningFront) -> None:
    text = "".join(SPECIAL) * 3
    ids = text_ids_sent(front, text)
    assert not set(ids) & set(SPECIAL.values()) and golden_model().tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    "body",
    [
        '{"temperature": 1e400}',
        '{"temperature": -1e400}',
        '{"n": 1e0}',
        '{"n": 99999999999999999999999999999999999999}',
        '{"max_tokens": -9223372036854775809}',
        '{"seed": 1.5}',
        '{"top_k": 1e30}',
        '{"logit_bias": {"-1": 1}}',
        '{"logit_bias": {"99999999999999999999": 1}}',
        '{"logit_bias": {"1": 1e999}}',
        '{"stop": {"a": 1}}',
        '{"chat_template": "{{ 1 }}"}',
        '{"chat_template_kwargs": {"a": 1}}',
        '{"mm_processor_kwargs": {"num_crops": 9999}}',
        '{"media_io_kwargs": {}}',
        '{"cache_salt": "../../x"}',
        '{"prompt_embeds": "AAAA"}',
        '{"guided_regex": "(a+)+b"}',
        '{"structured_outputs": {"regex": "(?<=a)b"}}',
        '{"structured_outputs": {"regex": "a/\\nstart: b"}, "modalities": ["image"]}',
        '{"structured_outputs": {"regex": "a\\\\"}}',
        '{"structured_outputs": {"grammar": "start: start"}}',
        '{"bad_words": ["x"]}',
        '{"echo": true}',
        '{"__proto__": {"x": 1}}',
        '{"\\u0000": 1}',
        '{"": 1}',
    ],
)
def test_odd_values_and_fields_of_other_servers_are_refused(front: RunningFront, body: str) -> None:
    num_before = len(front.engine.requests)
    content = '{"model": "tiny_a", "messages": [{"role": "user", "content": "hi"}], ' + body[1:]
    with front.http() as http:
        response = http.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert_gives_nothing_away(response)
    assert len(front.engine.requests) == num_before


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/",
        "/v1/chat",
        "/v1/completions/../chat",
        "/v1/models/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/models/%00",
    ],
)
def test_paths_that_lead_nowhere_say_nothing(front: RunningFront, path: str) -> None:
    with front.http() as http:
        response = http.get(path)
    assert response.status_code in (404, 405)
    assert_gives_nothing_away(response)


@pytest.mark.parametrize("request_id", ["x" * 129, "a b", 'a"b', "a/b", "a;b", "ä"])
def test_an_odd_request_id_is_replaced_and_not_logged(front: RunningFront, request_id: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="server"), front.http() as http:
        response = http.get("/v1/models", headers={b"x-request-id": request_id.encode("latin-1")})
    assert response.headers["x-request-id"].startswith("req-")
    assert request_id not in caplog.text


def test_one_request_id_in_many_requests_confuses_nobody(front: RunningFront) -> None:
    num_before = len(front.engine.requests)
    with front.http() as http:
        for _ in range(20):
            body = {"model": "tiny_a", "messages": [user("hi")]}
            assert http.post("/v1/chat/completions", json=body, headers={"x-request-id": "same"}).status_code == 200
    ids = [request.request_id for request in front.engine.requests[num_before:]]
    assert len(set(ids)) == 20 and "same" not in ids
