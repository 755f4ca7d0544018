"""What a replica does with the work of another that gave it up or died."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from server.api.chat_surface import ChatSurface
from server.errors import EngineUnavailable, Overloaded
from server.messages import ImageOutput
from server.serving.canon import encode_output
from server.serving.surfaces import Reply, Stamp
from server.store.memory import MemoryStore
from server.store.store import Lease, StoreUnavailable
from tests.server.api.chats import hello, user
from tests.server.picture_files import encoded_picture
from tests.server.scripted_engine import ScriptedEngine, red_picture
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
    """Counts heartbeats, and does not answer them while it is absent."""

    def __init__(self) -> None:
        super().__init__()
        self.num_beats = 0
        self.is_absent = False
        self._has_beaten = asyncio.Condition()

    async def heartbeat(self, owner: str, lease_s: float) -> set[str]:
        async with self._has_beaten:
            self.num_beats += 1
            self._has_beaten.notify_all()
        if self.is_absent:
            raise StoreUnavailable
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


async def test_a_replica_with_nothing_to_write_learns_that_the_store_is_back(tmp_path: Path) -> None:
    """It took the store for absent until its next answer, which was made without it, and its operator was told so all the while."""
    store = BeatenStore()
    async with running_replica(ScriptedEngine(hello), store, tmp_path) as replica, asyncio.timeout(WAIT_S):
        for is_absent in (True, False):
            store.is_absent = is_absent
            await store.beats(2)
            assert replica.durability.hub.is_store_absent is is_absent


class FailingFetch:
    """Fails in one way after another, then fetches a picture."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)

    def __call__(self, url: str, param: str, max_bytes: int) -> bytes:
        if self._failures:
            raise self._failures.pop(0)
        return encoded_picture(32, 32)


async def test_what_cannot_be_prepared_just_now_is_tried_again(tmp_path: Path) -> None:
    """The answer ended with the advice to try again, which nobody but the server could have followed."""
    store, fetch = MemoryStore(), FailingFetch(Overloaded("Too many pictures are being read."), EngineUnavailable("The engine starts."))
    async with running_replica(ScriptedEngine(hello), store, tmp_path, fetch) as replica, asyncio.timeout(WAIT_S):
        await given_up(store, "s", asked(ELSEWHERE))
        assert (await replica.answer("s"))[-1].payload == "[DONE]"


async def test_what_cannot_be_prepared_ends_when_its_time_is_over(tmp_path: Path) -> None:
    store, fetch = MemoryStore(), FailingFetch(*(Overloaded("Too many pictures are being read.") for _ in range(1000)))
    async with running_replica(ScriptedEngine(hello), store, tmp_path, fetch) as replica, asyncio.timeout(WAIT_S):
        await given_up(store, "s", asked(ELSEWHERE), deadline_s=2.0)
        assert '"code": "overloaded"' in (await replica.answer("s"))[-1].payload


async def test_an_unforeseen_failure_ends_the_one_answer_and_no_other(tmp_path: Path) -> None:
    """It ended the server."""
    store, fetch = MemoryStore(), FailingFetch(ZeroDivisionError())
    async with running_replica(ScriptedEngine(hello), store, tmp_path, fetch) as replica, asyncio.timeout(WAIT_S):
        await given_up(store, "s", asked(ELSEWHERE))
        assert '"code": "server_error"' in (await replica.answer("s"))[-1].payload
        await given_up(store, "t", asked())
        assert (await replica.answer("t"))[-1].payload == "[DONE]"


TORN_PICTURE = encode_output(0, ImageOutput("r", 0, red_picture()))[:-4] + b"torn"


@pytest.mark.parametrize("canon", [b"of another version", TORN_PICTURE], ids=["unknown", "torn"])
async def test_what_was_said_in_a_form_that_nobody_understands_ends_with_a_reason(tmp_path: Path, canon: bytes) -> None:
    """It ended one server after another, until enough had died."""
    store = MemoryStore()
    async with running_replica(ScriptedEngine(hello), store, tmp_path) as replica, asyncio.timeout(WAIT_S):
        await given_up(store, "s", asked(), canon)
        (ending,) = await replica.answer("s")
        assert '"code": "server_error"' in ending.payload and "was changed" in ending.payload


async def test_a_request_that_leads_to_the_unforeseen_is_not_kept_with_nobody_at_work_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease was renewed for ever, and its reader waited."""

    def fail(self: ChatSurface, body: bytes, stamp: Stamp) -> Reply:
        raise TypeError("of another version")

    monkeypatch.setattr(ChatSurface, "open", fail)
    store = MemoryStore()
    async with running_replica(ScriptedEngine(hello), store, tmp_path) as replica, asyncio.timeout(WAIT_S):
        await given_up(store, "s", asked())
        (ending,) = await replica.answer("s")
        assert ending.is_final


class StoreWithAbsence(MemoryStore):
    """Does not answer when it is asked for a picture, nor when a stream is given up, the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.absences = {"get_picture", "give_up"}

    def _may_be_absent(self, verb: str) -> None:
        if verb in self.absences:
            self.absences.discard(verb)
            raise StoreUnavailable

    async def get_picture(self, key: str) -> bytes | None:
        self._may_be_absent("get_picture")
        return await super().get_picture(key)

    async def give_up(self, leases: Sequence[Lease], *, by_death: bool) -> None:
        self._may_be_absent("give_up")
        await super().give_up(leases, by_death=by_death)


async def test_streams_claimed_while_the_store_goes_away_are_gone_on_with_when_it_is_back(tmp_path: Path) -> None:
    """A stream whose picture could not be read was claimed and never begun, and those that were claimed with it were forgotten."""
    store = StoreWithAbsence()
    store.absences.discard("give_up")
    for stream_id, url in (("s", f"/v1/files/file-{'0' * 64}/content"), ("t", ELSEWHERE)):
        await given_up(store, stream_id, asked(url))
    store.absences.add("give_up")
    async with running_replica(ScriptedEngine(hello), store, tmp_path, FailingFetch()) as replica, asyncio.timeout(WAIT_S):
        assert '"code": "invalid_image"' in (await replica.answer("s"))[-1].payload
        assert (await replica.answer("t"))[-1].payload == "[DONE]"
        assert not store.absences
