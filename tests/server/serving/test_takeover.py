"""What a replica does with the work of another that gave it up or died."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.store.memory import MemoryStore
from tests.server.api.chats import hello, user
from tests.server.picture_files import encoded_picture
from tests.server.scripted_engine import ScriptedEngine
from tests.server.serving.replica import given_up, running_replica

ELSEWHERE = "https://pictures.example/one.png"
WAIT_S = 10.0


def asked(*picture_urls: str) -> bytes:
    """Return a request with pictures."""
    parts = [{"type": "text", "text": "hi"}, *({"type": "image_url", "image_url": {"url": url}} for url in picture_urls)]
    return json.dumps({"model": "tiny_a", "messages": [user(parts)], "stream": True}).encode()


class SlowFetch:
    """Fetches a picture as soon as the test lets it."""

    def __init__(self) -> None:
        self.num_begun = 0
        self.may_end = threading.Event()

    def __call__(self, url: str, param: str, max_bytes: int) -> bytes:
        self.num_begun += 1
        assert self.may_end.wait(WAIT_S)
        return encoded_picture(32, 32)


class BeatenStore(MemoryStore):
    """Counts heartbeats."""

    def __init__(self) -> None:
        super().__init__()
        self.num_beats = 0
        self._has_beaten = asyncio.Condition()

    async def heartbeat(self, owner: str, lease_s: float) -> set[str]:
        async with self._has_beaten:
            self.num_beats += 1
            self._has_beaten.notify_all()
        return await super().heartbeat(owner, lease_s)

    async def beats(self, num_beats: int) -> None:
        """Wait for some more heartbeats."""
        last = self.num_beats + num_beats
        async with self._has_beaten, asyncio.timeout(WAIT_S):
            await self._has_beaten.wait_for(lambda: self.num_beats >= last)


@pytest.fixture
async def slow_fetch() -> AsyncIterator[SlowFetch]:
    fetch = SlowFetch()
    yield fetch
    fetch.may_end.set()


async def test_the_heartbeat_goes_on_while_what_was_taken_over_is_prepared(tmp_path: Path, slow_fetch: SlowFetch) -> None:
    """It waited for the pictures of a request taken over: the lease of all that the replica ran ended, and others took it."""
    store = BeatenStore()
    async with running_replica(ScriptedEngine(hello), store, tmp_path, slow_fetch) as replica, asyncio.timeout(WAIT_S):
        for number in range(2):
            await given_up(store, f"s{number}", asked(ELSEWHERE))
        while slow_fetch.num_begun < 2:
            await store.beats(1)
        await store.beats(10)
        assert await store.claim("another", 10) == []
        slow_fetch.may_end.set()
        for number in range(2):
            assert (await replica.answer(f"s{number}"))[-1].payload == "[DONE]"
