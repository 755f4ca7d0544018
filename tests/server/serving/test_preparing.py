"""Requests that are being prepared, many at once: who waits for something slow holds up nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path

from server.api.chat_surface import ChatSurface
from server.serving.accepting import Arrival
from server.serving.picture_links import PictureLinks
from server.store.memory import MemoryStore
from tests.server.api.chats import hello, user
from tests.server.picture_files import encoded_picture
from tests.server.scripted_engine import ScriptedEngine
from tests.server.serving.replica import running_replica

MANY = 2 * (32 + (os.cpu_count() or 1))
"""More than an event loop has threads."""
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}


def arrival(content: object) -> Arrival:
    return Arrival(
        ChatSurface("tiny_a", PictureLinks(MemoryStore())), json.dumps({"model": "tiny_a", "messages": [user(content)]}).encode()
    )


async def test_words_do_not_wait_for_the_pictures_of_others(tmp_path: Path) -> None:
    """A few pictures that were slow to come, or waited for a reader, had all threads in which requests are prepared and pictures drawn."""
    fetches, may_come = threading.Semaphore(0), threading.Event()

    def fetch(url: str, param: str, max_bytes: int) -> bytes:
        fetches.release()
        may_come.wait(30)
        return encoded_picture(8, 8, "PNG")

    async with running_replica(ScriptedEngine(hello), MemoryStore(), tmp_path, fetch) as replica:
        acceptance = replica.durability.acceptance
        pictures = [asyncio.create_task(acceptance.accept(arrival([PICTURE]))) for _ in range(MANY)]
        while not fetches.acquire(blocking=False):
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(10):
                reading = await acceptance.accept(arrival("hi"))
            assert (await reading.final()).is_final
        finally:
            may_come.set()
            for picture in pictures:
                picture.cancel()
            await asyncio.gather(*pictures, return_exceptions=True)
