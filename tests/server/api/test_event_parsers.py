"""One recorded stream, cut at random places, read by nine event parsers of seven authors: each sees the same events."""

from __future__ import annotations

import base64
import json
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import requests_sse
import sseclient
from aiohttp_sse_client2.client import EventSource as AiohttpEventSource  # type: ignore[import-untyped]
from httpx_sse import EventSource as HttpxEventSource
from openai._streaming import SSEDecoder

from server.messages import Request
from server.settings import Settings
from tests.js.scripts import run_script
from tests.server.api.chats import story, user
from tests.server.running_front import running_front
from tests.server.scripted_engine import Output, ScriptedEngine

NUM_CUTS = 12
Chunks = list[bytes]
Seen = list[list[str]]
"""The id and the data of each event."""


def story_after_a_wait(request: Request) -> list[list[Output]]:
    """Say a word and nothing more until released, so that the stream is kept alive between two events; then go on."""
    first, *others = story(request)
    return [first, [], *others]


@pytest.fixture(scope="module")
def recording() -> bytes:
    """Record a stream with words of several bytes a letter, pictures, progress and keep-alives."""
    recorded = b""
    body = {"model": "tiny_a", "messages": [user("hi")], "stream": True, "modalities": ["text", "image"], "image": {"progress": True}}
    with (
        running_front(ScriptedEngine(story_after_a_wait), Settings(keep_alive_s=0.02)) as front,
        front.http() as http,
        http.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        for chunk in response.iter_raw():
            recorded += chunk
            if recorded.count(b": ping") >= 2:
                front.engine.release()
    assert recorded.count(b": ping") >= 1 and recorded.endswith(b"data: [DONE]\n\n")
    return recorded


@pytest.fixture(scope="module")
def expected(recording: bytes) -> Seen:
    """Read the recording by the plainest means."""
    lines = [event.replace(": ping\n", "").split("\n") for event in recording.decode().rstrip().split("\n\n")]
    return [[event_id.removeprefix("id: "), data.removeprefix("data: ")] for event_id, data in lines]


@pytest.fixture(scope="module")
def cuts(recording: bytes) -> list[Chunks]:
    """Cut the recording: not at all, after every byte of its beginning, and at random."""
    rng = random.Random(7)
    edges = [sorted(rng.sample(range(1, len(recording)), rng.choice([3, 40, 400]))) for _ in range(NUM_CUTS - 2)]
    every_byte = list(range(1, min(3000, len(recording))))
    return [_cut(recording, places) for places in ([], every_byte, *edges)]


def _cut(recording: bytes, places: list[int]) -> Chunks:
    return [recording[start:end] for start, end in zip([0, *places], [*places, len(recording)], strict=True)]


def by_openai(chunks: Chunks) -> Seen:
    return [[event.id or "", event.data] for event in SSEDecoder().iter_bytes(iter(chunks))]


def by_httpx_sse(chunks: Chunks) -> Seen:
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=_Chunked(chunks))
    return [[event.id, event.data] for event in HttpxEventSource(response).iter_sse()]


def by_sseclient(chunks: Chunks) -> Seen:
    return [[event.id or "", event.data] for event in sseclient.SSEClient(iter(chunks)).events()]


class _Chunked(httpx.SyncByteStream):
    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks


@pytest.mark.parametrize("parse", [by_openai, by_httpx_sse, by_sseclient])
def test_parsers_of_bytes_see_the_same_events(parse: Callable[[Chunks], Seen], cuts: list[Chunks], expected: Seen) -> None:
    for chunks in cuts:
        assert parse(chunks) == expected


@pytest.fixture(scope="module")
def replay(cuts: list[Chunks]) -> Iterator[str]:
    """Serve each cut at ``/NUMBER``, one HTTP chunk for each of its own."""

    class Replay(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for chunk in cuts[int(self.path.removeprefix("/"))]:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Replay) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_requests_sse_sees_the_same_events(replay: str, expected: Seen) -> None:
    for number in range(NUM_CUTS):
        with requests_sse.EventSource(f"{replay}/{number}", max_connect_retry=0) as source:
            assert [[event.last_event_id, event.data] for event in _first(source, len(expected))] == expected


def _first(source: Iterator[requests_sse.MessageEvent], count: int) -> list[requests_sse.MessageEvent]:
    """Take the events of one connection; the parser would come back for more."""
    return [next(source) for _ in range(count)]


async def test_aiohttp_sse_client_sees_the_same_events(replay: str, expected: Seen) -> None:
    for number in range(NUM_CUTS):
        async with AiohttpEventSource(f"{replay}/{number}", max_connect_retry=0) as source:
            seen = await _first_async(aiter(source), len(expected))
        assert seen == expected


async def _first_async(source: AsyncIterator[object], count: int) -> Seen:
    events = [await anext(source) for _ in range(count)]
    return [[str(event.last_event_id), str(event.data)] for event in events]  # type: ignore[attr-defined]


def test_javascript_parsers_see_the_same_events(cuts: list[Chunks], expected: Seen, tmp_path: Path) -> None:
    file = tmp_path / "cuts.json"
    file.write_text(json.dumps([[base64.b64encode(chunk).decode() for chunk in chunks] for chunks in cuts]))
    seen = run_script("parsers.mjs", str(file))
    for name in ("withParser", "withParserStream", "withAzure", "withEventSource"):
        assert seen[name] == [expected] * NUM_CUTS, name
    # The official client shows what the events say, without their ids and the last one.
    said = [json.loads(data) for _, data in expected[:-1]]
    assert [[json.loads(data) for data in events] for events in seen["withOpenAI"]] == [said] * NUM_CUTS  # type: ignore[attr-defined]
