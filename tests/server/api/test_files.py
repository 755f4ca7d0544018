"""Pictures by address: kept, fetched, sent in again, and nobody else's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from server.access.keys import digest_of
from server.messages import ImageSegment
from server.settings import Settings
from tests.server.api.chats import error_of, stream_events, user
from tests.server.api.pictures import drawing
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

MODEL = "tiny_a"
PNG = b"\x89PNG"
DRAW: dict[str, object] = {"model": MODEL, "prompt": "a cat", "size": "64x32", "response_format": "url"}
CHAT: dict[str, object] = {"model": MODEL, "messages": [user("a cat")], "modalities": ["image"], "image": {"response_format": "url"}}


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(drawing)) as running:
        yield running


def drawn(http: httpx.Client) -> str:
    """Draw a picture and return its address."""
    answer = http.post("/v1/images/generations", json=DRAW)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["data"][0]["url"])


def test_the_official_client_gets_an_address_that_serves_the_picture(front: RunningFront, http: httpx.Client) -> None:
    answer = front.openai().images.generate(prompt="a cat", model=MODEL, response_format="url")
    assert answer.data is not None and answer.data[0].url is not None and answer.data[0].b64_json is None
    served = http.get(answer.data[0].url)

    assert answer.data[0].url.startswith(f"{front.url}/v1/files/file-")
    assert (served.status_code, served.headers["content-type"], served.content[:4]) == (200, "image/png", PNG)
    assert served.headers["x-content-type-options"] == "nosniff"


def test_a_file_is_deleted_by_the_official_client(front: RunningFront, http: httpx.Client) -> None:
    file_id = drawn(http).split("/")[-2]
    deleted = front.openai().files.delete(file_id)

    assert (deleted.id, deleted.object, deleted.deleted) == (file_id, "file", True)
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        assert http.get(path).status_code == 404
    assert http.delete(f"/v1/files/{file_id}").status_code == 404


def test_a_file_is_described_and_downloaded_by_the_official_client(front: RunningFront, http: httpx.Client) -> None:
    file_id = drawn(http).split("/")[-2]
    client: OpenAI = front.openai()
    described = client.files.retrieve(file_id)

    content = client.files.content(file_id).content
    assert (described.id, described.bytes, described.filename) == (file_id, len(content), f"{file_id}.png")
    assert described.expires_at == described.created_at + Settings().stream_ttl_s


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_chat_carries_addresses_instead_of_bytes(http: httpx.Client, is_stream: bool) -> None:
    if is_stream:
        events = [json.loads(event.payload) for event in stream_events(http, CHAT)[:-1]]
        (images,) = [event["choices"][0]["delta"]["images"] for event in events if "images" in event["choices"][0]["delta"]]
    else:
        images = http.post("/v1/chat/completions", json=CHAT).json()["choices"][0]["message"]["images"]

    assert http.get(images[0]["image_url"]["url"]).content[:4] == PNG


def test_the_same_picture_has_another_address_every_time(http: httpx.Client) -> None:
    """An id that were the hash of the picture alone could be guessed by whoever has the picture."""
    assert drawn(http) != drawn(http)


def test_a_picture_is_sent_in_by_its_address_or_its_id(http: httpx.Client, front: RunningFront) -> None:
    url = drawn(http)
    path, file_id = url.removeprefix(front.url), url.split("/")[-2]
    by_url = http.post("/v1/images/edits", json={"model": MODEL, "prompt": "blue", "images": [{"image_url": url}]})
    by_id = http.post("/v1/images/edits", json={"model": MODEL, "prompt": "blue", "images": [{"file_id": file_id}]})
    parts = [{"type": "image_url", "image_url": {"url": path}}, {"type": "text", "text": "blue"}]
    by_path = http.post("/v1/chat/completions", json={**CHAT, "messages": [user(parts)]})

    assert [answer.status_code for answer in (by_url, by_id, by_path)] == [200] * 3
    first, second, third = (request.segments[0] for request in front.engine.requests[-3:])
    assert isinstance(first, ImageSegment) and first == second == third


@pytest.mark.parametrize("file_id", ["file-" + "0" * 64, "file-", "x", "file-" + "g" * 64])
def test_what_is_not_kept_is_not_found(http: httpx.Client, file_id: str) -> None:
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        assert (http.get(path).status_code, error_of(http.get(path))["code"]) == (404, "file_not_found")


def test_an_address_of_nothing_is_no_picture(http: httpx.Client) -> None:
    body = {"model": MODEL, "prompt": "blue", "images": [{"image_url": f"/v1/files/file-{'0' * 64}/content"}]}
    answer = http.post("/v1/images/edits", json=body)
    assert (answer.status_code, error_of(answer)["code"], error_of(answer)["param"]) == (400, "invalid_image", "images[0].image_url")


@pytest.mark.parametrize("file_id", ["file-abc", "x", "a/b"])
def test_an_id_of_nothing_is_no_picture(http: httpx.Client, file_id: str) -> None:
    """Whoever sent one was told to send a data URI instead."""
    answer = http.post("/v1/images/edits", json={"model": MODEL, "prompt": "blue", "images": [{"file_id": file_id}]})
    assert (answer.status_code, error_of(answer)["code"], error_of(answer)["param"]) == (400, "invalid_image", "images[0].file_id")
    assert "no such picture" in str(error_of(answer)["message"])


def test_a_file_answers_head_with_what_it_would_answer_get(http: httpx.Client) -> None:
    url = drawn(http)
    whole, head = http.get(url), http.head(url)
    assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", "image/png")
    assert head.headers["content-length"] == str(len(whole.content))


def test_a_picture_is_its_tenants_alone(tmp_path: Path) -> None:
    secrets = {name: f"plait-{name}-{'x' * 40}" for name in ("alice", "bob")}
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [{"tenant": name, "sha256": digest_of(secret)} for name, secret in secrets.items()]}))
    with running_front(ScriptedEngine(drawing), Settings(keys_file=keys)) as front:
        alice, bob = (httpx.Client(base_url=front.url, headers={"authorization": f"Bearer {secret}"}) for secret in secrets.values())
        url = drawn(alice)
        seen = [client.get(url).status_code for client in (alice, bob)]
        stolen = bob.post("/v1/images/edits", json={"model": MODEL, "prompt": "blue", "images": [{"image_url": url}]})
        alice.close()
        bob.close()

    assert seen == [200, 404]
    assert (stolen.status_code, error_of(stolen)["code"]) == (400, "invalid_image")


def test_links_name_the_server_as_its_operator_says() -> None:
    with running_front(ScriptedEngine(drawing), Settings(public_url="https://plait.example")) as front, front.http() as http:
        assert drawn(http).startswith("https://plait.example/v1/files/file-")
