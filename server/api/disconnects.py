"""Work that is worth doing only while the client is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Receive

CLIENT_GONE = 499
"""Nobody reads this answer; the status is for logs and metrics."""

AnswerT = TypeVar("AnswerT")


async def unless_gone(work: Awaitable[AnswerT], receive: Receive) -> AnswerT | None:
    """Await ``work``; None, with the work cancelled, when the client disconnects first."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    """Return when the client is gone; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
