"""Streams for programs that read nothing but ``data:``, as `vllm bench serve` and other load generators do."""

from __future__ import annotations

import json

from server.messages import Request
from server.settings import Settings
from tests.server.api.chats import story, user
from tests.server.running_front import running_front
from tests.server.scripted_engine import Output, ScriptedEngine

WITHOUT_IDS = {"X-Plait-Event-Ids": "false"}


def story_after_a_wait(request: Request) -> list[list[Output]]:
    first, *others = story(request)
    return [first, [], *others]


def test_what_lies_between_empty_lines_is_one_piece_of_data_or_one_comment() -> None:
    recorded = b""
    body = {"model": "tiny_a", "messages": [user("hi")], "stream": True, "modalities": ["text", "image"]}
    with (
        running_front(ScriptedEngine(story_after_a_wait), Settings(keep_alive_s=0.02)) as front,
        front.http() as http,
        http.stream("POST", "/v1/chat/completions", json=body, headers=WITHOUT_IDS) as response,
    ):
        for chunk in response.iter_raw():
            recorded += chunk
            if recorded.count(b": ping") >= 2:
                front.engine.release()
        stream_id = response.headers["x-stream-id"]
        plain = [json.loads(payload) for payload in payloads(recorded)]
        again = http.get(f"/v1/streams/{stream_id}").content
    assert recorded.count(b": ping") >= 2 and plain[-1]["choices"][0]["finish_reason"] == "stop"
    numbered = [line for line in again.splitlines() if line.startswith(b"id: ")]
    assert len(numbered) == len(plain) + 1  # with the end, which is no JSON: who comes back for a stream counts its events


def payloads(stream: bytes) -> list[bytes]:
    """Read a stream as load generators do."""
    messages = [message.strip() for message in stream.split(b"\n\n") if message.strip()]
    data = [message for message in messages if not message.startswith(b":")]
    assert all(message.startswith(b"data: ") for message in data)
    assert data.pop() == b"data: [DONE]"
    return [message.removeprefix(b"data: ") for message in data]
