"""Two servers over one real Redis are one to their clients: what one begins, the other joins, resumes, replays and cancels."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from redis import Redis

from server.settings import Settings
from tests.redis_server import redis_on_socket
from tests.server.api.chats import ServerEvent, endless, error_of, hello, server_events, user
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

CHAT = "/v1/chat/completions"
BODY = {"model": "tiny_a", "messages": [user("hi")], "stream": True}
KEY = {"Idempotency-Key": "k"}
PAUSE_MS = 1200


@dataclass(frozen=True, slots=True)
class Pair:
    """Two servers. At the first an answer says one letter and waits to be released; the second would answer at once."""

    first: RunningFront
    second: RunningFront


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        settings = Settings(store=SecretStr(stack.enter_context(redis_on_socket(tmp_path))), lease_s=2.0)
        fronts = [stack.enter_context(running_front(ScriptedEngine(script), settings)) for script in (endless, hello)]
        yield Pair(*fronts)


def begun(http: httpx.Client) -> str:
    """Begin an answer under `KEY`, read its letter, hang up, and return its stream."""
    with http.stream("POST", CHAT, json=BODY, headers=KEY) as response:
        assert next(line for line in response.iter_lines() if '"content":"w"' in line)
        return response.headers["x-stream-id"]


def read(http: httpx.Client, stream_id: str, after: int = 0) -> list[ServerEvent]:
    with http.stream("GET", f"/v1/streams/{stream_id}", headers={"Last-Event-ID": str(after)}) as response:
        return server_events(response.iter_lines())


def test_a_key_sent_to_another_server_joins_the_running_answer(pair: Pair) -> None:
    with pair.first.http() as http, pair.second.http() as other:
        stream_id = begun(http)
        with other.stream("POST", CHAT, json=BODY, headers=KEY) as joined:
            assert joined.headers["x-stream-id"] == stream_id
            pair.first.engine.release()
            events = server_events(joined.iter_lines())
        assert events == read(http, stream_id) and events[-1].payload == "[DONE]"
    assert not pair.second.engine.requests


def test_a_key_sent_to_another_server_replays_the_finished_answer(pair: Pair) -> None:
    with pair.second.http() as http, pair.first.http() as other:
        first = http.post(CHAT, json=BODY, headers=KEY)
        again = other.post(CHAT, json=BODY, headers=KEY)
    assert first.text == again.text and not pair.first.engine.requests


def test_a_key_used_for_another_request_is_a_conflict_at_every_server(pair: Pair) -> None:
    with pair.second.http() as http, pair.first.http() as other:
        http.post(CHAT, json=BODY, headers=KEY)
        response = other.post(CHAT, json={**BODY, "messages": [user("ho")]}, headers=KEY)
    assert response.status_code == 409 and error_of(response)["code"] == "idempotency_conflict"
    assert response.headers["x-should-retry"] == "false"


def test_a_running_answer_is_read_on_at_another_server(pair: Pair) -> None:
    with pair.first.http() as http, pair.second.http() as other:
        stream_id = begun(http)
        with other.stream("GET", f"/v1/streams/{stream_id}") as resumed:
            lines = resumed.iter_lines()
            assert next(line for line in lines if '"content":"w"' in line)
            pair.first.engine.release()
            assert server_events(lines)[-1].payload == "[DONE]"
        whole = read(http, stream_id)
        assert read(other, stream_id, after=2) == whole[2:]
    assert [event.event_id for event in whole] == [str(number) for number in range(1, len(whole) + 1)]


def test_an_answer_is_cancelled_through_another_server(pair: Pair) -> None:
    with pair.first.http() as http, pair.second.http() as other:
        stream_id = begun(http)
        assert other.delete(f"/v1/streams/{stream_id}").json()["cancelled"]
        pair.first.engine.wait_until(lambda: len(pair.first.engine.aborted) == 1)
        assert '"code": "cancelled"' in read(other, stream_id)[-1].payload


@pytest.fixture
def waiting_redis(tmp_path: Path) -> Iterator[str]:
    """A Redis that the test may keep waiting."""
    with redis_on_socket(tmp_path) as url:
        yield url


def test_who_left_while_a_stream_was_opened_finds_its_answer_by_its_key(waiting_redis: str) -> None:
    """The request was dropped where the store had its stream already: whoever came back joined a stream on which nobody worked."""
    settings = Settings(store=SecretStr(waiting_redis))
    with running_front(ScriptedEngine(hello), settings) as front, front.http() as http, Redis.from_url(waiting_redis) as redis:
        redis.client_pause(PAUSE_MS)
        with pytest.raises(httpx.ReadTimeout):
            http.post(CHAT, json=BODY, headers=KEY, timeout=PAUSE_MS / 4000)
        assert http.post(CHAT, json=BODY, headers=KEY).text.rstrip().endswith("[DONE]")
    assert len(front.engine.requests) == 1


@pytest.mark.parametrize("is_background", [False, True])
def test_a_response_asked_for_again_by_its_key_is_written_down_once(waiting_redis: str, is_background: bool) -> None:
    """Its record was opened a second time: its owner was said to have it under way, and its writing was refused as another's."""
    body: dict[str, object] = {"model": "tiny_a", "input": "hi", "background": is_background}
    with running_front(ScriptedEngine(hello), Settings(store=SecretStr(waiting_redis))) as front, front.http() as http:
        ids = {http.post("/v1/responses", json=body, headers=KEY).json()["id"] for _ in range(3)}
        (response_id,) = ids
        with Redis.from_url(waiting_redis) as redis:
            front.engine.wait_until(lambda: not redis.keys("*owned:*"))
        assert http.get(f"/v1/responses/{response_id}").json()["status"] == "completed"
        assert "plait_fenced_writes_total 0.0" in http.get("/metrics").text


def test_a_response_whose_client_left_early_is_written_down_when_it_comes_back(waiting_redis: str) -> None:
    body = {"model": "tiny_a", "input": "hi"}
    settings = Settings(store=SecretStr(waiting_redis))
    with running_front(ScriptedEngine(hello), settings) as front, front.http() as http, Redis.from_url(waiting_redis) as redis:
        redis.client_pause(PAUSE_MS)
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/responses", json=body, headers=KEY, timeout=PAUSE_MS / 4000)
        response_id = http.post("/v1/responses", json=body, headers=KEY).json()["id"]
        assert http.get(f"/v1/responses/{response_id}").json()["id"] == response_id
    assert len(front.engine.requests) == 1


def test_an_engine_that_dies_while_a_stream_is_opened_leaves_it_to_the_next(waiting_redis: str) -> None:
    settings = Settings(store=SecretStr(waiting_redis), lease_s=1.0)
    with (
        running_front(ScriptedEngine(hello), settings) as front,
        front.http() as http,
        Redis.from_url(waiting_redis) as redis,
        ThreadPoolExecutor(1) as pool,
    ):
        redis.client_pause(PAUSE_MS)
        asked = pool.submit(http.post, CHAT, json=BODY, headers=KEY)
        front.engine.crash()
        assert asked.result().text.rstrip().endswith("[DONE]")
    assert front.engine.num_starts == 2
