"""How long a client waits is passed on to the engine, bounded by what the operator allows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.settings import Settings
from tests.server.api.chats import error_of, hello, user
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

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
    assert front.engine.requests[-1].deadline_s == passed_on


@pytest.mark.parametrize("given", ["", "0", "-1", "1e3", "nan", "inf", "soon", "100000", "1.23456", "٣"])
def test_what_is_no_number_of_seconds_is_refused(front: RunningFront, given: str) -> None:
    with front.http() as http:
        response = http.post("/v1/chat/completions", json=BODY, headers={b"x-request-timeout": given.encode()})
    assert response.status_code == 400 and error_of(response)["param"] == "X-Request-Timeout"
