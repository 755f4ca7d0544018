"""A Redis that is full refuses what would fill it further, and loses nothing of what it has."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis

from server.settings import Settings
from tests.server.api.chats import endless, error_of, hello, server_events, user
from tests.server.running_front import running_front
from tests.server.scripted_engine import ScriptedEngine

CHAT = "/v1/chat/completions"
BODY = {"model": "tiny_a", "messages": [user("hi")], "stream": True}
KEY = {"Idempotency-Key": "k"}
LEASE_S = 0.5


@pytest.fixture
def settings(redis: Redis, tmp_path: Path) -> Settings:
    return Settings(store=SecretStr(f"unix://{tmp_path / 'redis.sock'}"), lease_s=LEASE_S)


@contextmanager
def full(redis: Redis) -> Iterator[None]:
    """Leave a Redis no room until the block ends."""
    redis.config_set("maxmemory", 1)
    yield
    redis.config_set("maxmemory", 0)


def test_a_new_request_is_refused_while_the_store_is_full(redis: Redis, settings: Settings) -> None:
    """The store was taken for absent: the answer was made without it, and its key led nowhere."""
    with running_front(ScriptedEngine(hello), settings) as front, front.http() as http:
        with full(redis):
            refused = http.post(CHAT, json=BODY, headers=KEY)
            assert "plait_store_absent 0.0" in http.get("/metrics").text
        assert refused.status_code == 503 and error_of(refused)["code"] == "overloaded" and "retry-after" in refused.headers
        assert "as many answers as it can hold" in str(error_of(refused)["message"])
        assert http.post(CHAT, json=BODY, headers=KEY).text.rstrip().endswith("[DONE]")
    assert len(front.engine.requests) == 1


def test_an_answer_under_way_goes_on_in_a_full_store_and_is_kept_when_there_is_room(redis: Redis, settings: Settings) -> None:
    with (
        running_front(ScriptedEngine(endless), settings) as front,
        running_front(ScriptedEngine(hello), settings) as survivor,
        front.http() as http,
        survivor.http() as other,
    ):
        with http.stream("POST", CHAT, json=BODY, headers=KEY) as response:
            stream_id, lines = response.headers["x-stream-id"], response.iter_lines()
            assert next(line for line in lines if '"content":"w"' in line)
            with full(redis):
                since = time.monotonic()
                front.engine.wait_until(lambda: time.monotonic() - since > 3 * LEASE_S)
                front.engine.release()
                assert server_events(lines)[-1].payload == "[DONE]"
        with other.stream("GET", f"/v1/streams/{stream_id}") as response:
            kept = server_events(response.iter_lines())
    assert kept[-1].payload == "[DONE]" and not survivor.engine.requests


def test_an_answer_is_cancelled_while_the_store_is_full(redis: Redis, settings: Settings) -> None:
    with (
        running_front(ScriptedEngine(endless), settings) as front,
        running_front(ScriptedEngine(hello), settings) as other_front,
        front.http() as http,
        other_front.http() as other,
        http.stream("POST", CHAT, json=BODY, headers=KEY) as response,
        full(redis),
    ):
        assert other.delete(f"/v1/streams/{response.headers['x-stream-id']}").json()["cancelled"]
        assert '"code": "cancelled"' in server_events(response.iter_lines())[-1].payload
