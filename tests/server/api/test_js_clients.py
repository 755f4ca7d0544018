"""Chat through JavaScript: the official client plain, streamed and with its helper, and the Vercel AI SDK."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.messages import Request
from tests.js.scripts import run_script
from tests.server.api.chats import STORY, hello, spelled, story, tokens
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import Output, ScriptedEngine, finish

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Łódź"}}\n</tool_call>'
HELLO = "hello wörld 🙂"


def by_prompt(request: Request) -> list[list[Output]]:
    """Tell a story, call the tool, think, or say hello, as the request asks."""
    spoken = spelled(request)[0]
    if "get_weather" in (request.sampling.grammar or ""):
        return [*tokens(request, CALL), [finish(request)]]
    if "<think>" in spoken:
        return [*tokens(request, "<think>\nhm\n</think>\n\nyes"), [finish(request)]]
    return story(request) if spoken == "story" else hello(request)


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(by_prompt)) as running:
        yield running


def test_every_way_of_asking_brings_the_same_answer(front: RunningFront) -> None:
    seen = run_script("chat.mjs", f"{front.url}/v1", "tiny_a")
    text = "".join(STORY)
    assert seen["plain"] == {"text": text, "images": 2, "parts": ["text", "image_url", "text", "image_url"]}
    assert seen["streamed"] == {"text": text, "images": [0, 1], "usage": 10, "reason": "stop"}
    assert seen["helped"] == [text, text]
    assert seen["called"] == {"calls": [["get_weather", {"city": "Łódź"}]], "finishReason": "tool-calls"}
    assert seen["sdk"] == {"text": HELLO, "tokens": 10, "words": "yes", "thoughts": "hm", "reason": "stop"}
