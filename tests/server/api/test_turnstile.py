"""While there is no room requests are turned away at the door: unread, told when to come back, and nobody who is inside is kept out."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from server.settings import Settings
from tests.server.api.chats import endless, error_of, user
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

BODY = {"model": "tiny_a", "messages": [user("hi")]}
KEY = {"Idempotency-Key": "first"}
ROUTES = ("/v1/chat/completions", "/v1/images/generations", "/v1/images/edits", "/v1/responses")


@pytest.fixture
def full() -> Iterator[RunningFront]:
    """A server that takes one answer at a time, and has one that does not end until released."""
    settings = Settings(max_in_flight=1, max_running=1)
    with (
        running_front(ScriptedEngine(endless), settings) as front,
        front.http() as http,
        http.stream("POST", "/v1/chat/completions", json={**BODY, "stream": True}, headers=KEY) as first,
    ):
        front.engine.wait_until(lambda: bool(front.engine.requests))
        yield front
        front.engine.release()
        assert "[DONE]" in first.read().decode()


def refusal(response: httpx.Response) -> None:
    assert response.status_code == 503 and error_of(response)["code"] == "overloaded"
    assert int(response.headers["retry-after"]) == round(int(response.headers["retry-after-ms"]) / 1000) >= 1
    assert response.headers["x-should-retry"] == "true"
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("route", ROUTES)
def test_what_there_is_no_room_for_is_refused_before_it_is_checked(full: RunningFront, route: str) -> None:
    with full.http() as http:
        refusal(http.post(route, content=b"{not even JSON", headers={"content-type": "application/json"}))
        series = http.get("/metrics").text
    assert f'route="{route}",status="503"' in series or f'status="503",route="{route}"' in series


def test_a_large_body_is_refused_before_it_has_come(full: RunningFront) -> None:
    large = b" " * (4 << 20)
    with full.http() as http, http.stream("POST", ROUTES[0], content=large, headers={"content-type": "application/json"}) as response:
        response.read()
    refusal(response)


def test_who_comes_back_for_an_answer_by_its_key_is_not_turned_away_at_the_door(full: RunningFront) -> None:
    """Further in, the same server has no room for a second answer; the door leaves that to whoever knows what the key stands for."""
    with full.http() as http:
        response = http.post(ROUTES[0], content=b"{not even JSON", headers={**KEY, "content-type": "application/json"})
    assert response.status_code == 400


def test_who_comes_back_by_its_key_joins_its_answer_though_there_is_no_room(full: RunningFront) -> None:
    """It was refused because of its own answer, which it was to join."""
    with full.http() as http, http.stream("POST", ROUTES[0], json={**BODY, "stream": True}, headers=KEY) as joined:
        assert joined.status_code == 200, joined.read()
        assert '"content":"w"' in next(line for line in joined.iter_lines() if '"w"' in line)
    assert len(full.engine.requests) == 1


def test_what_asks_for_no_answer_is_served_meanwhile(full: RunningFront) -> None:
    with full.http() as http:
        assert http.get("/v1/models").status_code == 200
        assert http.post("/tokenize", json={"model": "tiny_a", "prompt": "hi"}).status_code == 200


def test_refusing_takes_a_few_milliseconds(full: RunningFront) -> None:
    with full.http() as http:
        started = time.monotonic()
        for _ in range(100):
            refusal(http.post(ROUTES[0], json=BODY))
    assert time.monotonic() - started < 2.0
