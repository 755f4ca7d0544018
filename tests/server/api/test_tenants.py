"""Several tenants on one server: each has its own quota and its own streams, and can touch nobody else's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.access.keys import digest_of
from server.settings import Settings
from tests.server.api.chats import endless, error_of, hello, user
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

SECRETS = {name: f"plait-{name}-{'x' * 40}" for name in ("alice", "bob", "carol")}
BOUNDS: dict[str, dict[str, object]] = {
    "alice": {"weight": 3.0},
    "bob": {"requests_per_minute": 2, "tokens_per_minute": 100_000},
    "carol": {"max_in_flight": 1},
}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    entries = [{"tenant": name, "sha256": digest_of(secret), **BOUNDS[name]} for name, secret in SECRETS.items()]
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": entries}))
    return path


@pytest.fixture
def front(keys: Path) -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(hello), Settings(keys_file=keys)) as front:
        yield front


def client(front: RunningFront, name: str) -> httpx.Client:
    return httpx.Client(base_url=front.url, headers={"authorization": f"Bearer {SECRETS[name]}"}, timeout=10)


def chat(http: httpx.Client, **fields: object) -> httpx.Response:
    return http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": [user("hi")], "max_tokens": 8, **fields})


def test_a_request_runs_on_its_key_s_account_whatever_user_it_names(front: RunningFront) -> None:
    """Else one tenant could take a share for each name it makes up."""
    with client(front, "alice") as alice:
        assert chat(alice, user="somebody").status_code == 200
    assert (front.engine.requests[-1].tenant, front.engine.requests[-1].weight) == ("alice", 3.0)


def test_users_of_one_key_share_no_cached_prompts(front: RunningFront) -> None:
    """The key's account took the user's place, and with it what kept their prompts apart."""

    def scope_of(name: str, **fields: object) -> str:
        with client(front, name) as http:
            assert chat(http, **fields).status_code == 200
        return front.engine.requests[-1].cache_scope

    scopes = [scope_of(name, user=user) for name in ("alice", "carol") for user in ("ann", "ben")]
    assert len({*scopes, scope_of("alice"), scope_of("carol")}) == 6
    assert scope_of("alice", safety_identifier="ann") == scopes[0]


def test_an_answer_taken_over_is_still_its_user_s(keys: Path) -> None:
    body = {"model": "tiny_a", "messages": [user("hi")], "stream": True, "user": "ann"}
    with (
        running_front(ScriptedEngine(endless), Settings(keys_file=keys)) as front,
        client(front, "alice") as alice,
        alice.stream("POST", "/v1/chat/completions", json=body) as stream,
    ):
        front.engine.wait_for_requests(1)
        front.engine.crash()
        front.engine.wait_for_requests(2)
        front.engine.release()
        stream.read()
    first, second = front.engine.requests
    assert (first.tenant, first.weight, first.cache_scope) == (second.tenant, second.weight, second.cache_scope)
    assert first.user


def test_a_quota_that_is_used_up_is_429_with_the_seconds_to_wait(front: RunningFront) -> None:
    with client(front, "bob") as bob, client(front, "alice") as alice:
        answers = [chat(bob) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert error_of(answers[2])["code"] == "rate_limit_exceeded" and answers[2].headers["x-should-retry"] == "true"
        assert 0 < int(answers[2].headers["retry-after"]) <= 30
        assert chat(alice).status_code == 200


def test_a_request_that_is_one_too_many_is_refused_before_anything_of_it_is_prepared(front: RunningFront) -> None:
    """Its pictures were read and its schemas compiled first, however many more than its bound a tenant sent."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,bm8gcGljdHVyZQ=="}}
    with client(front, "bob") as bob:
        assert [chat(bob, messages=[user([picture])]).status_code for _ in range(3)] == [400, 400, 429]


def count(http: httpx.Client) -> httpx.Response:
    return http.post("/v1/responses/input_tokens", json={"input": "hi"})


def test_a_count_is_a_request_like_others(front: RunningFront) -> None:
    """It cost nothing, and as much of the server as the prompt is long."""
    with client(front, "bob") as bob:
        assert [count(bob).status_code for _ in range(3)] == [200, 200, 429]


def test_answers_say_how_their_tenant_stands(front: RunningFront) -> None:
    with client(front, "bob") as bob:
        headers = chat(bob).headers
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert headers["x-ratelimit-reset-requests"] == "30.000s"
    assert int(headers["x-ratelimit-remaining-tokens"]) < 100_000 == int(headers["x-ratelimit-limit-tokens"])


def test_a_tenant_s_answers_at_once_are_bounded(keys: Path) -> None:
    with running_front(ScriptedEngine(endless), Settings(keys_file=keys)) as front, client(front, "carol") as carol:
        body = {"model": "tiny_a", "messages": [user("hi")], "stream": True}
        with carol.stream("POST", "/v1/chat/completions", json=body) as first:
            assert first.status_code == 200
            with client(front, "carol") as other:
                for refused in (chat(other), count(other)):
                    assert refused.status_code == 429 and "1 answers" in (error_of(refused)["message"] or "")
            front.engine.release()
            assert [line for line in first.iter_lines() if line][-1] == "data: [DONE]"
        assert chat(carol).status_code == count(carol).status_code == 200


def test_who_asks_again_by_its_key_is_not_bounded_by_its_own_answer(keys: Path) -> None:
    body, key = {"model": "tiny_a", "messages": [user("hi")], "stream": True}, {"idempotency-key": "k"}
    with (
        running_front(ScriptedEngine(endless), Settings(keys_file=keys)) as front,
        client(front, "carol") as carol,
        carol.stream("POST", "/v1/chat/completions", json=body, headers=key) as first,
        client(front, "carol") as other,
        other.stream("POST", "/v1/chat/completions", json=body, headers=key) as again,
    ):
        assert again.status_code == 200, again.read()
        front.engine.release()
        assert first.read() == again.read()


def test_a_foreign_stream_is_not_there(keys: Path) -> None:
    with running_front(ScriptedEngine(endless), Settings(keys_file=keys)) as front:
        body = {"model": "tiny_a", "messages": [user("hi")], "stream": True}
        with client(front, "alice") as alice, alice.stream("POST", "/v1/chat/completions", json=body) as stream:
            path = f"/v1/streams/{stream.headers['x-stream-id']}"
            with client(front, "bob") as bob:
                for foreign in (bob.get(path), bob.delete(path)):
                    unknown = bob.get("/v1/streams/chatcmpl-none")
                    assert (
                        (foreign.status_code, error_of(foreign)["code"])
                        == (unknown.status_code, error_of(unknown)["code"])
                        == (404, "stream_not_found")
                    )
            front.engine.release()
            assert [line for line in stream.iter_lines() if line][-1] == "data: [DONE]"
        with client(front, "alice") as alice:
            assert alice.get(path).status_code == 200


def test_one_idempotency_key_of_two_tenants_is_two_keys(front: RunningFront) -> None:
    with client(front, "alice") as alice, client(front, "carol") as carol:
        headers = {"idempotency-key": "same"}
        body = {"model": "tiny_a", "messages": [user("hi")], "max_tokens": 8}
        ids = {http.post("/v1/chat/completions", json=body, headers=headers).json()["id"] for http in (alice, alice, carol)}
    assert len(ids) == 2
