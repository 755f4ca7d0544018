"""Answers as streams: read again from any point, joined, cancelled, and kept for a client that said it would come back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from server.messages import FinishedOutput, FinishReason, Request
from server.settings import Settings
from tests.redis_server import redis_on_socket
from tests.server.api.chats import ServerEvent, endless, error_of, hello, server_events, spelled, story, user
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import USAGE, Output, ScriptedEngine

WAIT: dict[str, object] = {"model": "tiny_a", "messages": [user("wait")], "stream": True}
TALK: dict[str, object] = {"model": "tiny_a", "messages": [user("hi")], "stream": True}
KEY = {"Idempotency-Key": "k"}
RESUMABLE = {"X-Plait-Resumable": "true"}
LET_GO_S = 5.0


def by_prompt(request: Request) -> list[list[Output]]:
    return {"story": story, "wait": endless}.get(spelled(request)[0], hello)(request)


@pytest.fixture
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(by_prompt), Settings(keep_alive_s=0.1, resume_grace_s=1.0)) as running:
        yield running


def begin(http: httpx.Client, body: dict[str, object], headers: dict[str, str] | None = None) -> str:
    """Post a streaming chat, read its first event, hang up; return the stream's id."""
    with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        assert response.status_code == 200, response.read()
        next(line for line in response.iter_lines() if line.startswith("data: "))
        return response.headers["x-stream-id"]


def read(http: httpx.Client, stream_id: str, **how: str) -> list[ServerEvent]:
    headers = {"Last-Event-ID": how["last_event_id"]} if "last_event_id" in how else {}
    query = {"starting_after": how["starting_after"]} if "starting_after" in how else {}
    with http.stream("GET", f"/v1/streams/{stream_id}", headers=headers, params=query) as response:
        assert response.status_code == 200, response.read()
        return server_events(response.iter_lines())


def whole(http: httpx.Client, body: dict[str, object]) -> tuple[str, list[ServerEvent]]:
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        return response.headers["x-stream-id"], server_events(response.iter_lines())


def test_a_finished_stream_reads_the_same_again(front: RunningFront) -> None:
    with front.http() as http:
        stream_id, events = whole(http, TALK)
        assert read(http, stream_id) == events


@pytest.mark.parametrize("how", ["last_event_id", "starting_after"])
def test_a_reader_starts_after_the_event_it_names(front: RunningFront, how: str) -> None:
    with front.http() as http:
        stream_id, events = whole(http, TALK)
        assert read(http, stream_id, **{how: "3"}) == events[3:]


def test_nothing_follows_the_last_event_and_a_browser_is_told_not_to_ask_again(front: RunningFront) -> None:
    with front.http() as http:
        stream_id, events = whole(http, TALK)
        assert http.get(f"/v1/streams/{stream_id}", headers={"Last-Event-ID": events[-1].event_id}).status_code == 204


def test_a_reader_beyond_the_last_event_is_let_go_when_the_answer_ends(front: RunningFront) -> None:
    """It waited for an event that could not come, for as long as it was there."""
    with front.http() as http:
        stream_id = begin(http, WAIT, RESUMABLE)
        with http.stream("GET", f"/v1/streams/{stream_id}", headers={"Last-Event-ID": "999"}) as response:
            front.engine.release()
            deadline = time.monotonic() + LET_GO_S
            for line in response.iter_lines():
                assert not line.startswith("data: ") and time.monotonic() < deadline


def test_a_resumable_answer_goes_on_without_a_reader(front: RunningFront) -> None:
    with front.http() as http:
        stream_id = begin(http, WAIT, RESUMABLE)
        front.engine.release()
        events = read(http, stream_id)
    assert [event.event_id for event in events] == [str(number) for number in range(1, len(events) + 1)]
    assert events[-1].payload == "[DONE]" and front.engine.aborted == []


def test_a_resumable_answer_is_given_up_when_nobody_comes_back(front: RunningFront) -> None:
    with front.http() as http:
        begin(http, WAIT, RESUMABLE)
    front.engine.wait_until(lambda: len(front.engine.aborted) == 1)


def test_a_reader_that_came_back_sees_the_answer_live(front: RunningFront) -> None:
    with front.http() as http:
        stream_id = begin(http, WAIT, RESUMABLE)
        with http.stream("GET", f"/v1/streams/{stream_id}") as response:
            lines = response.iter_lines()
            assert '"content":"w"' in next(line for line in lines if '"w"' in line)
            front.engine.release()
            assert server_events(lines)[-1].payload == "[DONE]"


def test_two_readers_see_one_answer(front: RunningFront) -> None:
    with front.http() as http, ThreadPoolExecutor(2) as pool:
        stream_id = begin(http, WAIT, RESUMABLE)
        readers = [pool.submit(read, http, stream_id) for _ in range(2)]
        front.engine.release()
        first, second = (reader.result() for reader in readers)
    assert first == second and len(front.engine.requests) == 1


def test_a_cancelled_stream_ends_with_an_error_and_so_does_the_engine_s_work(front: RunningFront) -> None:
    with front.http() as http:
        stream_id = begin(http, WAIT, RESUMABLE)
        assert http.delete(f"/v1/streams/{stream_id}").json() == {"id": stream_id, "object": "stream", "cancelled": True}
        events = read(http, stream_id)
    assert '"code": "cancelled"' in events[-1].payload
    front.engine.wait_until(lambda: len(front.engine.aborted) == 1)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_stream_is_not_found(front: RunningFront, method: str) -> None:
    with front.http() as http:
        response = http.request(method, "/v1/streams/chatcmpl-nothing")
    assert response.status_code == 404 and error_of(response)["code"] == "stream_not_found"


@pytest.mark.parametrize("position", ["-1", "x", "1.5", "9" * 30, "²"])
def test_a_position_that_is_no_number_is_refused(front: RunningFront, position: str) -> None:
    with front.http() as http:
        response = http.get("/v1/streams/chatcmpl-nothing", params={"starting_after": position})
    assert response.status_code == 400 and error_of(response)["param"] == "starting_after"


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_key_used_again_replays_the_answer(front: RunningFront, is_stream: bool) -> None:
    body = {"model": "tiny_a", "messages": [user("hi")], "stream": is_stream}
    with front.http() as http:
        first, second = (http.post("/v1/chat/completions", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.text == second.text and first.headers["x-stream-id"] == second.headers["x-stream-id"]
    assert len(front.engine.requests) == 1


def test_a_key_used_meanwhile_joins_the_running_answer(front: RunningFront) -> None:
    body = {"model": "tiny_a", "messages": [user("wait")]}
    with front.http() as http, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(http.post, "/v1/chat/completions", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        front.engine.wait_for_requests(1)
        front.engine.release()
        first, second = (answer.result() for answer in answers)
    assert first.json() == second.json() and len(front.engine.requests) == 1


def test_a_key_used_for_another_request_is_a_conflict_that_no_client_retries(front: RunningFront) -> None:
    with front.http() as http:
        http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": [user("hi")]}, headers={"Idempotency-Key": "k"})
        response = http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": [user("ho")]}, headers={"Idempotency-Key": "k"})
    assert response.status_code == 409 and error_of(response)["code"] == "idempotency_conflict"
    assert response.headers["x-should-retry"] == "false"


def test_a_key_joins_its_answer_while_another_engine_is_started(front: RunningFront) -> None:
    with front.http() as http, front.http() as other, http.stream("POST", "/v1/chat/completions", json=WAIT, headers=KEY) as first:
        lines = first.iter_lines()
        assert next(line for line in lines if '"content":"w"' in line)
        front.engine.crash()
        front.engine.wait_until(lambda: other.get("/readyz").status_code == 503)
        with other.stream("POST", "/v1/chat/completions", json=WAIT, headers=KEY) as again:
            assert again.headers["x-stream-id"] == first.headers["x-stream-id"]
            front.engine.release()
            assert server_events(again.iter_lines())[-1].payload == server_events(lines)[-1].payload == "[DONE]"


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("has_redis", [True, False])
def test_a_key_whose_request_the_engine_had_no_room_for_begins_another(tmp_path: Path, is_stream: bool, has_redis: bool) -> None:
    """The refusal was its answer, for as long as answers are kept, to everyone who did as it said and asked again."""
    refusals = ["overloaded"]

    def script(request: Request) -> list[list[Output]]:
        if not refusals:
            return hello(request)
        return [[FinishedOutput(request.request_id, FinishReason.ERROR, USAGE, refusals.pop(), "too many wait")]]

    body = {**TALK, "stream": is_stream}
    with ExitStack() as stack:
        settings = Settings(store=SecretStr(stack.enter_context(redis_on_socket(tmp_path))) if has_redis else None)
        http = stack.enter_context(stack.enter_context(running_front(ScriptedEngine(script), settings)).http())
        first, second, third = (http.post("/v1/chat/completions", json=body, headers=KEY) for _ in range(3))
    assert "overloaded" in first.text and first.status_code == (200 if is_stream else 503)
    assert "overloaded" not in second.text and second.text == third.text


def test_a_refused_request_does_not_use_up_its_key(front: RunningFront) -> None:
    with front.http() as http:
        refused = http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": []}, headers={"Idempotency-Key": "k"})
        accepted = http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": [user("hi")]}, headers={"Idempotency-Key": "k"})
    assert (refused.status_code, accepted.status_code) == (400, 200)
