"""Measures a server by streaming: when words and pictures arrive at a client, over many requests at once.

Only what a client sees is measured, so any OpenAI-compatible server can be: tokens are what the server's usage says, and where it says
nothing the chunks that carried words.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx
import msgspec

from server.cli.openai_client import Chunk, error_message

Body = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked and how often. Without ``rate_per_s`` ``concurrency`` requests run at all times; with it they arrive at random
    (Poisson), whether or not earlier ones are answered."""

    num_requests: int
    concurrency: int
    rate_per_s: float | None
    timeout_s: float


@dataclass(slots=True)
class Sample:
    """One request as its client saw it. Times in seconds; ``gaps_s`` lie between pieces of one text, which a picture ends."""

    first_text_s: float | None = None
    first_picture_s: float | None = None
    total_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    num_chunks: int = 0
    num_tokens: int | None = None
    num_pictures: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """All samples, and the seconds from the first request to the last answer."""

    samples: list[Sample]
    wall_s: float


async def measure(http: httpx.AsyncClient, body_of: Callable[[int], Body], plan: Plan, on_done: Callable[[int], None]) -> Run:
    """Send the requests and return a sample of each; ``on_done`` hears how many are over."""
    slots = asyncio.Semaphore(plan.concurrency if plan.rate_per_s is None else plan.num_requests)
    arrivals = random.Random(0)
    num_done = 0

    async def one(index: int) -> Sample:
        nonlocal num_done
        async with slots:
            sample = await _sample(http, body_of(index), plan.timeout_s)
        num_done += 1
        on_done(num_done)
        return sample

    started = time.perf_counter()
    tasks = []
    for index in range(plan.num_requests):
        tasks.append(asyncio.create_task(one(index)))
        if plan.rate_per_s is not None:
            await asyncio.sleep(arrivals.expovariate(plan.rate_per_s))
    samples = await asyncio.gather(*tasks)
    return Run(list(samples), time.perf_counter() - started)


async def _sample(http: httpx.AsyncClient, body: Body, timeout_s: float) -> Sample:
    sample = Sample()
    started = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s), http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                sample.error = error_message(response.status_code, await response.aread())
            else:
                await _follow(response, sample, started)
    except TimeoutError:
        sample.error = f"no end within {timeout_s:g} s"
    except (httpx.HTTPError, msgspec.MsgspecError) as error:
        sample.error = f"{type(error).__name__}: {error}"
    sample.total_s = time.perf_counter() - started
    return sample


async def _follow(response: httpx.Response, sample: Sample, started: float) -> None:
    last_text_s: float | None = None
    is_whole = False
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        payload = line.removeprefix("data:").strip()
        now = time.perf_counter() - started
        if payload == "[DONE]":
            is_whole = True
            break
        chunk = msgspec.json.decode(payload, type=Chunk)
        if chunk.error is not None:
            sample.error = chunk.error.message
            return
        last_text_s = _take(chunk, sample, now, last_text_s)
    if not is_whole:
        sample.error = "the stream ended without [DONE]"


def _take(chunk: Chunk, sample: Sample, now: float, last_text_s: float | None) -> float | None:
    """Take in one chunk; return when the last words of the text came that is being written. A picture ends it: the time that drawing
    takes is none between tokens."""
    if chunk.usage is not None:
        sample.num_tokens = chunk.usage.completion_tokens
    for choice in chunk.choices:
        if choice.delta.content or choice.delta.reasoning_content:
            sample.num_chunks += 1
            if sample.first_text_s is None:
                sample.first_text_s = now
            if last_text_s is not None:
                sample.gaps_s.append(now - last_text_s)
            last_text_s = now
        if choice.delta.images:
            sample.num_pictures += len(choice.delta.images)
            sample.first_picture_s = sample.first_picture_s or now
            last_text_s = None
    return last_text_s
