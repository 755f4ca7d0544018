"""A client that loses its connection and comes back: by its idempotency key while it has no stream, then after the last event it saw."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import httpx

SILENCE_S = 3.0
"""A connection without a byte for so long is given up; the fleet pings every second."""
RETRY_S = 0.2
GIVE_UP_S = 120.0


@dataclass(slots=True)
class Transcript:
    """What one client saw: ids and payloads in order, and the longest time between two events in seconds."""

    name: str
    ids: list[int] = field(default_factory=list)
    payloads: list[str] = field(default_factory=list)
    longest_gap_s: float = 0.0
    num_connections: int = 0
    is_complete: bool = False
    refusal: str = ""
    _last_at: float = field(default_factory=time.monotonic)

    def take(self, event_id: int, payload: str) -> None:
        """Add an event."""
        now = time.monotonic()
        self.longest_gap_s = max(self.longest_gap_s, now - self._last_at)
        self._last_at = now
        self.ids.append(event_id)
        self.payloads.append(payload)
        self.is_complete = payload == "[DONE]"

    @property
    def last_id(self) -> int:
        return self.ids[-1] if self.ids else 0


@dataclass(frozen=True, slots=True)
class Question:
    """A body to send under a key."""

    name: str
    key: str
    body: dict[str, object]


async def ask(http: httpx.AsyncClient, question: Question) -> Transcript:
    """Ask and read to the end, through whatever happens on the way."""
    transcript = Transcript(question.name)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GIVE_UP_S):
            await _ask(http, question, transcript)
    return transcript


async def _ask(http: httpx.AsyncClient, question: Question, transcript: Transcript) -> None:
    stream_id: str | None = None
    while not transcript.is_complete and not transcript.refusal:
        transcript.num_connections += 1
        with contextlib.suppress(httpx.HTTPError):
            async with _connection(http, question, stream_id, transcript.last_id) as response:
                stream_id = response.headers.get("x-stream-id", stream_id)
                await _read(response, transcript)
        if not transcript.is_complete:
            await asyncio.sleep(RETRY_S)


def _connection(
    http: httpx.AsyncClient, question: Question, stream_id: str | None, last_id: int
) -> AbstractAsyncContextManager[httpx.Response]:
    if stream_id is None:
        return http.stream("POST", "/v1/chat/completions", json=question.body, headers={"Idempotency-Key": question.key})
    return http.stream("GET", f"/v1/streams/{stream_id}", headers={"Last-Event-ID": str(last_id)})


async def _read(response: httpx.Response, transcript: Transcript) -> None:
    if response.status_code != httpx.codes.OK:
        body = (await response.aread()).decode(errors="replace")
        # A server that is away for now says 5xx; anything else is its last word.
        is_passing = response.status_code >= 500 or response.status_code == httpx.codes.TOO_MANY_REQUESTS
        transcript.refusal = "" if is_passing else f"{response.status_code} {body[:200]}"
        return
    async for event_id, payload in _events(response):
        transcript.take(event_id, payload)
        if '"error"' in payload[:12]:
            transcript.refusal = payload[:200]


async def _events(response: httpx.Response) -> AsyncIterator[tuple[int, str]]:
    event_id = 0
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            event_id = int(line[4:])
        elif line.startswith("data: "):
            yield event_id, line[6:]
