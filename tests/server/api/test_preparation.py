"""A request that is being prepared has a place among those in flight, and no more time than its client gave it.

Its preparation lasts because the store, where the picture is that it names, is kept waiting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from redis import Redis

from server.access.keys import digest_of
from server.settings import Settings
from tests.server.api.chats import error_of, hello, user
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

CHAT = "/v1/chat/completions"
PICTURE = {"type": "image_url", "image_url": {"url": f"/v1/files/file-{'0' * 64}/content"}}
BODY = {"model": "tiny_a", "messages": [user([PICTURE])]}
PAUSE_MS = 1500
SECRET = f"plait-carol-{'x' * 40}"
KEY = {"authorization": f"Bearer {SECRET}"}


@pytest.fixture
def front(redis: Redis, tmp_path: Path) -> Iterator[RunningFront]:
    settings = Settings(store=SecretStr(f"unix://{tmp_path / 'redis.sock'}"), max_in_flight=1, max_running=1)
    with running_front(ScriptedEngine(hello), settings) as front:
        yield front


def status(http: httpx.Client) -> int:
    """Return what a request is answered that is turned away where there is no room, and never prepared."""
    return http.post(CHAT, content=b"{not even JSON", headers={"content-type": "application/json"}).status_code


def test_a_request_that_is_being_prepared_takes_a_place(front: RunningFront, redis: Redis) -> None:
    """Only those in the engine were counted: any number could be prepared at once, each with its body in memory."""
    with front.http() as http, front.http() as other, ThreadPoolExecutor(1) as pool:
        redis.client_pause(PAUSE_MS)
        prepared = pool.submit(http.post, CHAT, json=BODY)
        front.engine.wait_until(lambda: status(other) == 503)
        assert error_of(prepared.result())["code"] == "invalid_image"
        assert status(other) == 400


def test_a_request_is_prepared_within_its_time(front: RunningFront, redis: Redis) -> None:
    with front.http() as http:
        redis.client_pause(PAUSE_MS)
        response = http.post(CHAT, json=BODY, headers={"x-request-timeout": "0.2"}, timeout=PAUSE_MS / 1000)
        assert (response.status_code, error_of(response)["code"]) == (504, "deadline_exceeded")
        assert status(http) == 400


def test_a_request_that_is_being_prepared_is_one_of_its_key_s_answers_at_once(redis: Redis, tmp_path: Path) -> None:
    """They were counted once they were prepared: one key could have all places of the server meanwhile."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [{"tenant": "carol", "sha256": digest_of(SECRET), "max_in_flight": 1}]}))
    settings = Settings(store=SecretStr(f"unix://{tmp_path / 'redis.sock'}"), keys_file=keys)
    with running_front(ScriptedEngine(hello), settings) as front, front.http() as http, ThreadPoolExecutor(2) as pool:
        redis.client_pause(PAUSE_MS)
        asked = [pool.submit(http.post, CHAT, json=BODY, headers=KEY) for _ in range(2)]
        refused, prepared = sorted((one.result() for one in asked), key=lambda response: -response.status_code)
        assert refused.status_code == 429 and "1 answers under way at once" in str(error_of(refused)["message"])
        assert error_of(prepared)["code"] == "invalid_image"
        assert http.post(CHAT, json={"model": "tiny_a", "messages": [user("hi")]}, headers=KEY).status_code == 200
