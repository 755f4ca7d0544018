"""How long a client waits is passed on to the engine, bounded by what the operator allows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from server.settings import Settings
from tests.server.api.chats import error_of, hello, user
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

LAG_S = 1.0
"""Between a request's arrival and its beginning, on a busy machine."""
BODY = {"model": "tiny_a", "messages": [user("hi")]}


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(hello), Settings(longest_answer_s=60)) as front:
        yield front


@pytest.mark.parametrize(("given", "passed_on"), [(None, 60.0), ("2.5", 2.5), ("59", 59.0), ("3600", 60.0)])
def test_the_shorter_of_the_client_s_patience_and_the_operator_s_holds(front: RunningFront, given: str | None, passed_on: float) -> None:
    with front.http() as http:
        headers = {} if given is None else {"x-request-timeout": given}
        assert http.post("/v1/chat/completions", json=BODY, headers=headers).status_code == 200
    assert passed_on - LAG_S < (front.engine.requests[-1].deadline_s or 0.0) < passed_on


def test_the_time_a_request_took_to_come_is_part_of_its_time(front: RunningFront) -> None:
    """The engine was given all of it, and so it had more than its client waited."""

    def slowly() -> Iterator[bytes]:
        body = json.dumps(BODY).encode()
        yield body[:10]
        time.sleep(2 * LAG_S)
        yield body[10:]

    headers = {"content-type": "application/json", "x-request-timeout": "50"}
    with front.http() as http:
        assert http.post("/v1/chat/completions", content=slowly(), headers=headers).status_code == 200
    assert 0.0 < (front.engine.requests[-1].deadline_s or 0.0) < 50 - LAG_S


@pytest.mark.parametrize("given", ["", "0", "-1", "1e3", "nan", "inf", "soon", "100000", "1.23456", "٣"])
def test_what_is_no_number_of_seconds_is_refused(front: RunningFront, given: str) -> None:
    with front.http() as http:
        response = http.post("/v1/chat/completions", json=BODY, headers={b"x-request-timeout": given.encode()})
    assert response.status_code == 400 and error_of(response)["param"] == "X-Request-Timeout"
