"""Work in threads learns when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import threading

import pytest

from server.serving.interest import Interest, while_awaited


async def test_what_was_done_in_a_thread_is_returned() -> None:
    assert await while_awaited(lambda interest: interest.is_over, None) is False


async def test_work_whose_caller_is_cancelled_is_told() -> None:
    """It went on as if somebody waited, and held the worker that others waited for."""
    interests: list[Interest] = []
    may_end = threading.Event()

    def work(interest: Interest) -> None:
        interests.append(interest)
        may_end.wait(10)

    waiting = asyncio.create_task(while_awaited(work, None))
    while not interests:
        await asyncio.sleep(0)
    assert not interests[0].is_over
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert interests[0].is_over
    may_end.set()
