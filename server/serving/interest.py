"""Whether anybody still waits for what is being prepared: told in the event loop, asked in the threads that prepare it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

ResultT = TypeVar("ResultT")


class NobodyWaits(Exception):
    """What was asked for is of no use to anybody any more."""


@dataclass(slots=True)
class Interest:
    """That of one client, which ``is_over`` when it has gone or its time is up."""

    is_over: bool = False


async def while_awaited(work: Callable[[Interest], ResultT], executor: Executor | None) -> ResultT:
    """Do ``work`` in a thread of ``executor``, None for the event loop's own; it is told when its caller is cancelled."""
    interest = Interest()
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, work, interest)
    finally:
        interest.is_over = True
