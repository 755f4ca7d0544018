"""The peers' way behind Plait's own front: words, pictures and stories come whole over HTTP."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.fleet.processes import Service, answers_ok

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
TELL = [{"role": "user", "content": "draw"}]
DRAWN = {"num_inference_steps": 3, "max_images": 2, "size": "64x64"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("staged")
    port = directory / "port"

    def address() -> str:
        return f"http://127.0.0.1:{port.read_text()}" if port.exists() else ""

    command = [sys.executable, "-m", "loadtests.mixed.staged_server", "--model", str(CHECKPOINT), "--port-file", str(port)]
    service = Service("staged", command, directory / "log", lambda: bool(address()) and answers_ok(f"{address()}/readyz"))
    service.start()
    try:
        service.wait_until_ready()
        yield address()
    finally:
        service.stop()


@pytest.mark.parametrize(
    ("modalities", "has_words", "num_pictures"), [(["text"], True, 0), (["image"], False, 2), (["text", "image"], True, 2)]
)
def test_an_answer_of_the_peers_way_is_whole(url: str, modalities: list[str], has_words: bool, num_pictures: int) -> None:
    body = {"model": "bench", "messages": TELL, "modalities": modalities, "max_completion_tokens": 9, "ignore_eos": True}
    if num_pictures:
        body["image"] = DRAWN
    answered = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert answered.status_code == 200, answered.text
    message = answered.json()["choices"][0]["message"]
    assert bool(message["content"]) is has_words
    assert [picture["index"] for picture in message.get("images") or []] == list(range(num_pictures))
