"""Requests at a rate, whatever becomes of them, and a record of each."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus

import httpx

from loadtests.overload.connections import ConnectionEnded, Connections

CHAT = "/v1/chat/completions"
PATIENCE = 3.0
"""How many times its deadline a client waits before it counts a request as failed."""
SUBJECTS = ("red circle", "blue square", "yellow star", "green triangle", "purple heart")
PICTURE_SHARE = 0.25
NUM_CALIBRATING = 24
"""Clients that ask one thing after another while capacity is measured: enough to keep the server full."""
PROBE_EVERY_S = 0.25
LONGEST_RECOVERY_S = 60.0
PROMPTNESS = 2.0
"""A request is answered as before when it takes at most this much of its time before the flood, or half a second more."""


class Outcome(Enum):
    DONE = "done in time"
    LATE = "accepted and not done in time"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Record:
    """One request: when it was sent and for how long, in seconds; what it was told to wait, where it was refused."""

    draws: bool
    sent_s: float
    seconds: float
    outcome: Outcome
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Flood:
    """Sends requests to one server. ``deadline_s``: how long each says that it waits."""

    connections: Connections
    model: str
    deadline_s: float
    rng: random.Random

    @classmethod
    @asynccontextmanager
    async def of_server(cls, url: str, deadline_s: float, seed: int) -> AsyncIterator[Flood]:
        """Connect to a server and ask for its model's name."""
        async with httpx.AsyncClient(base_url=url) as http:
            models = (await http.get("/v1/models")).json()
        async with Connections.to(url) as connections:
            yield cls(connections, models["data"][0]["id"], deadline_s, random.Random(seed))

    async def send(self, per_second: float, seconds: float) -> list[Record]:
        """Send requests with exponential gaps for ``seconds``, and return all their records once the last is answered."""
        tasks: list[asyncio.Task[Record]] = []
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            tasks.append(asyncio.create_task(self.ask()))
            await asyncio.sleep(max(0.0, self.rng.expovariate(per_second) - (time.monotonic() - now)))
        return list(await asyncio.gather(*tasks))

    async def ask(self, *, draws: bool | None = None) -> Record:
        """Send one request and see what becomes of it."""
        draws = self.rng.random() < PICTURE_SHARE if draws is None else draws
        request = self.connections.post(CHAT, self._body(draws=draws), {"x-request-timeout": f"{self.deadline_s:g}"})
        started = time.monotonic()
        try:
            answer = await asyncio.wait_for(self.connections.ask(request), PATIENCE * self.deadline_s)
        except (OSError, TimeoutError, ConnectionEnded):
            return Record(draws, started, time.monotonic() - started, Outcome.FAILED)
        elapsed = time.monotonic() - started
        if answer.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            return Record(draws, started, elapsed, Outcome.REFUSED, answer.retry_after_s)
        if answer.status == HTTPStatus.OK and elapsed <= self.deadline_s:
            return Record(draws, started, elapsed, Outcome.DONE)
        is_late = answer.status in (HTTPStatus.OK, HTTPStatus.GATEWAY_TIMEOUT)
        return Record(draws, started, elapsed, Outcome.LATE if is_late else Outcome.FAILED)

    def _body(self, *, draws: bool) -> dict[str, object]:
        subject, seed = self.rng.choice(SUBJECTS), self.rng.getrandbits(31)
        body: dict[str, object] = {"model": self.model, "seed": seed}
        if draws:
            return {**body, "modalities": ["image"], "messages": [{"role": "user", "content": f"a {subject}"}]}
        message = {"role": "user", "content": f"what is a {subject}? number {seed}"}
        return {**body, "modalities": ["text"], "messages": [message], "max_completion_tokens": 48, "ignore_eos": True}

    async def recovery_s(self, typical_s: float) -> float:
        """Ask for words again and again; return the seconds until one is taken and answered as before the flood."""
        started = time.monotonic()
        while (passed := time.monotonic() - started) < LONGEST_RECOVERY_S:
            record = await self.ask(draws=False)
            if record.outcome is Outcome.DONE and record.seconds <= max(PROMPTNESS * typical_s, typical_s + 0.5):
                return passed
            await asyncio.sleep(PROBE_EVERY_S)
        return LONGEST_RECOVERY_S


async def measure_capacity(flood: Flood, seconds: float) -> float:
    """Return the requests a second that the server completes when it is never without work."""
    end = time.monotonic() + seconds
    done = 0

    async def client() -> None:
        nonlocal done
        while time.monotonic() < end:
            record = await flood.ask()
            done += record.outcome is Outcome.DONE and time.monotonic() <= end
            if record.outcome is not Outcome.DONE:
                await asyncio.sleep(0.1)

    await asyncio.gather(*(client() for _ in range(NUM_CALIBRATING)))
    return max(done, 1) / seconds
