"""Items that a request only names by their ids, as clients send those of answers that were stored, and what is refused of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.access.keys import digest_of
from server.settings import Settings
from tests.server.api.chats import STORY, error_of, hello, spelled
from tests.server.api.response_scripts import CALL, MODEL, by_prompt
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

DRAW: dict[str, object] = {"type": "image_generation"}
WEATHER: dict[str, object] = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
NEXT: dict[str, object] = {"role": "user", "content": "hi"}


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(by_prompt)) as running:
        yield running


def create(http: httpx.Client, **body: object) -> httpx.Response:
    return http.post("/v1/responses", json={"model": MODEL, "input": "hi", **body})


def told(http: httpx.Client, **body: object) -> list[dict[str, object]]:
    """Return the output of a response."""
    answer = create(http, **body)
    assert answer.status_code == 200, answer.text
    output: list[dict[str, object]] = answer.json()["output"]
    return output


def refused(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    return answer.status_code, error_of(answer)["code"], error_of(answer)["param"]


def reference(item: dict[str, object]) -> dict[str, object]:
    return {"type": "item_reference", "id": item["id"]}


def read_by(front: RunningFront) -> list[str]:
    """Return what the engine read last."""
    return spelled(front.engine.requests[-1])


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_items_of_an_answer_are_read_where_they_are_named(http: httpx.Client, front: RunningFront, is_stream: bool) -> None:
    """Vercel's ``openai(model)`` sends nothing but references for every answer that was stored: its second turn was refused."""
    if is_stream:
        answer = create(http, input="tell a story", tools=[DRAW], stream=True)
        output = http.get(f"/v1/responses/{answer.headers['x-stream-id']}").json()["output"]
    else:
        output = told(http, input="tell a story", tools=[DRAW])
    told(http, input=[{"role": "user", "content": "tell a story"}, *map(reference, output), NEXT], tools=[DRAW])
    assert read_by(front) == ["tell a story", STORY[0], "picture", STORY[1], "picture", "hi"]


@pytest.mark.parametrize("fields", [{}, {"status": "completed"}, {"result": None, "status": "completed"}], ids=json.dumps)
def test_a_picture_is_edited_by_its_id(http: httpx.Client, front: RunningFront, fields: dict[str, object]) -> None:
    """OpenAI's guide and LangChain send pictures back so."""
    (drawn,) = told(http, input="a cat", tools=[DRAW], tool_choice=DRAW)
    told(http, input=[NEXT, {"type": "image_generation_call", "id": drawn["id"], **fields}], tools=[DRAW], tool_choice=DRAW)
    assert read_by(front) == ["hi", "picture"]


def test_an_id_alone_is_a_reference(http: httpx.Client, front: RunningFront) -> None:
    (said,) = told(http)
    told(http, input=[{"id": said["id"]}, {"id": said["id"], "type": None}, NEXT])
    assert read_by(front) == ["hello wörld 🙂", "hello wörld 🙂", "hi"]


def test_a_call_is_answered_by_its_id(http: httpx.Client, front: RunningFront) -> None:
    (call,) = told(http, tools=[WEATHER])
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    told(http, input=[NEXT, reference(call), output], tools=[WEATHER])
    prompt = "".join(read_by(front))
    assert CALL in prompt and "<tool_response>\nrain\n</tool_response>" in prompt


def test_what_was_named_is_kept_as_it_was_read(http: httpx.Client, front: RunningFront) -> None:
    """Also where the answer it came from is deleted, an answer to it is listed and gone on from."""
    first = create(http).json()
    second = create(http, input=[reference(first["output"][0]), NEXT]).json()
    http.delete(f"/v1/responses/{first['id']}")
    listed = http.get(f"/v1/responses/{second['id']}/input_items?order=asc").json()["data"]
    told(http, previous_response_id=second["id"], input="bye")
    assert (listed[0]["type"], listed[0]["id"]) == ("message", first["output"][0]["id"])
    assert read_by(front) == ["hello wörld 🙂", "hi", "hello wörld 🙂", "bye"]


def test_another_engine_reads_what_was_named(front: RunningFront, http: httpx.Client) -> None:
    (said,) = told(http)
    body = {"model": MODEL, "input": [reference(said), {"role": "user", "content": "wait"}], "stream": True}
    num_requests = len(front.engine.requests)
    with http.stream("POST", "/v1/responses", json=body) as stream:
        front.engine.wait_for_requests(num_requests + 1)
        front.engine.crash()
        front.engine.wait_for_requests(num_requests + 2)
        front.engine.release()
        stream.read()
    assert read_by(front) == ["hello wörld 🙂", "wait"]


KEY = "0" * 32


@pytest.mark.parametrize(
    "item",
    [
        {"type": "item_reference", "id": "msg_x"},
        {"type": "item_reference", "id": f"msg_{KEY}_0"},
        {"type": "image_generation_call", "id": f"ig_{KEY}_0"},
        {"type": "image_generation_call", "id": f"msg_{KEY}_0"},
    ],
    ids=json.dumps,
)
def test_what_nobody_stored_is_not_found_by_its_id(http: httpx.Client, item: dict[str, object]) -> None:
    answer = create(http, input=[NEXT, item])
    assert refused(answer) == (404, "item_not_found", "input[1].id")
    assert f"'{item['id']}'" in str(error_of(answer)["message"])


def test_a_place_that_the_output_does_not_have_is_not_found(http: httpx.Client) -> None:
    (said,) = told(http)
    assert refused(create(http, input=[{"type": "item_reference", "id": f"{said['id']}9"}])) == (404, "item_not_found", "input[0].id")


@pytest.mark.parametrize("is_deleted", [False, True])
def test_what_is_not_stored_or_no_longer_is_not_found(http: httpx.Client, is_deleted: bool) -> None:
    made = create(http, store=is_deleted).json()
    if is_deleted:
        http.delete(f"/v1/responses/{made['id']}")
    assert refused(create(http, input=[reference(made["output"][0])])) == (404, "item_not_found", "input[0].id")


def test_nothing_is_read_of_an_answer_under_way() -> None:
    with running_front(ScriptedEngine(by_prompt)) as front, front.http() as http:
        made = create(http, input="wait", background=True).json()
        answer = create(http, input=[{"type": "item_reference", "id": f"msg_{made['id'].removeprefix('resp_')}_0"}])
    assert refused(answer) == (404, "item_not_found", "input[0].id")
    assert "under way" in str(error_of(answer)["message"])


def test_a_picture_without_id_or_bytes_is_refused(http: httpx.Client) -> None:
    answer = create(http, input=[{"type": "image_generation_call", "status": "completed"}])
    assert refused(answer) == (400, "invalid_value", "input[0].result")


def test_the_responses_named_by_one_request_are_bounded(http: httpx.Client) -> None:
    items = [{"type": "item_reference", "id": f"msg_{number:032x}_0"} for number in range(129)]
    assert refused(create(http, input=items)) == (400, "invalid_value", "input")


def test_what_is_put_in_counts_as_if_it_had_been_sent() -> None:
    """A body of a few kilobytes could name one picture a thousand times."""
    with running_front(ScriptedEngine(by_prompt), Settings(max_body_bytes=4096)) as front, front.http() as http:
        (said,) = told(http)
        assert create(http, input=[reference(said)] * 10).status_code == 200
        assert refused(create(http, input=[reference(said)] * 30)) == (413, "body_too_large", "input")


def test_the_likelihoods_of_what_is_put_in_are_left_out() -> None:
    """An answer of some thousand tokens could not be named where it had been asked for with the likelihoods of each."""
    with running_front(ScriptedEngine(by_prompt), Settings(max_body_bytes=4096)) as front, front.http() as http:
        (said,) = told(http, top_logprobs=20, include=["message.output_text.logprobs"])
        assert "logprobs" in json.dumps(said) and len(json.dumps(said)) > 1024
        assert create(http, input=[reference(said)] * 10).status_code == 200


def test_an_answer_is_sent_back_with_the_likelihoods_of_its_tokens(http: httpx.Client) -> None:
    """Beyond a thousand tokens it was refused: each may have 233 values."""
    part = {"type": "output_text", "text": "a", "logprobs": [0] * 233 * 4000}
    told(http, input=[{"role": "assistant", "content": [part]}, NEXT])


def test_another_tenant_s_items_are_as_unknown_as_any(tmp_path: Path) -> None:
    secrets = {name: f"plait-{name}-{'x' * 40}" for name in ("alice", "bob")}
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [{"tenant": name, "sha256": digest_of(secret)} for name, secret in secrets.items()]}))
    with running_front(ScriptedEngine(hello), Settings(keys_file=keys)) as front:
        alice, bob = ({"authorization": f"Bearer {secret}"} for secret in secrets.values())
        with front.http() as http:
            made = http.post("/v1/responses", json={"model": MODEL, "input": "hi"}, headers=alice).json()
            body = {"model": MODEL, "input": [reference(made["output"][0])]}
            unknown = {"model": MODEL, "input": [{"type": "item_reference", "id": f"msg_{KEY}_0"}]}
            answers = [http.post("/v1/responses", json=sent, headers=bob) for sent in (body, unknown)]
            assert http.post("/v1/responses", json=body, headers=alice).status_code == 200
    messages = {str(error_of(answer)["message"]).replace(made["output"][0]["id"], f"msg_{KEY}_0") for answer in answers}
    assert [refused(answer) for answer in answers] == [(404, "item_not_found", "input[0].id")] * 2 and len(messages) == 1
