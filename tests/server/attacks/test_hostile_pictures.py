"""Hostile pictures through a real front: each refused in words of ours, at once, at nobody else's cost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from server.settings import Settings
from tests.server.api.chats import endless, error_of, user
from tests.server.attacks.hostile_pictures import hostile_pictures
from tests.server.attacks.refusals import assert_gives_nothing_away
from tests.server.picture_files import uri
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine
from tests.server.worker_processes import workers_running

PICTURES = hostile_pictures()
LARGEST_READER_BYTES = 700 << 20
REFUSED_WITHIN_S = 10.0
"""A bound that a slow, shared machine keeps; the usual time is milliseconds."""


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(endless), Settings()) as front:
        yield front


def ask_about(http: httpx.Client, url: str) -> httpx.Response:
    content = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return http.post("/v1/chat/completions", json={"model": "tiny_a", "messages": [user(content)]})


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(PICTURES) >= 40


@pytest.mark.parametrize("name", PICTURES)
def test_a_hostile_picture_is_refused(name: str, front: RunningFront) -> None:
    started = time.monotonic()
    with front.http() as http:
        response = ask_about(http, uri(PICTURES[name]))
        assert response.status_code == 400, name
        assert error_of(response)["code"] in ("invalid_image", "image_too_large")
        assert error_of(response)["param"] == "messages[0].content[1].image_url.url"
        assert_gives_nothing_away(response)
        assert http.get("/livez").status_code == 200
    assert time.monotonic() - started < REFUSED_WITHIN_S
    assert front.engine.requests == [], "the engine must not hear of it"


def test_the_corpus_costs_neither_memory_nor_a_neighbour(front: RunningFront) -> None:
    with front.http() as http, http.stream("POST", "/v1/chat/completions", json={
        "model": "tiny_a", "messages": [user("hi")], "stream": True,
    }) as neighbour:  # fmt: skip
        lines = neighbour.iter_lines()
        while '"content":"w"' not in next(lines):
            pass
        with front.http() as other:
            ask_about(other, uri(PICTURES["BMP"]))
            before = psutil.Process().memory_info().rss
            for encoded in PICTURES.values():
                ask_about(other, uri(encoded))
        readers = workers_running("picture_reader")
        assert readers and all(reader.memory_info().rss < LARGEST_READER_BYTES for reader in readers)
        assert psutil.Process().memory_info().rss - before < 128 << 20
        front.engine.release()
        assert [line for line in lines if line.startswith("data: ")][-1] == "data: [DONE]"
