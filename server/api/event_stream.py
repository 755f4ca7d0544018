"""Server-sent events: numbered, kept alive while nothing happens, ended when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.api.errors import error_json
from server.errors import PlaitError

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no", "content-type": "text/event-stream; charset=utf-8"}
PING = b": ping\n\n"
DONE = "[DONE]"


class EventStream(Response):
    """Sends each string of ``payloads`` as an event with a dense ``id`` from 1, then ``[DONE]``.

    An error of ours on the way is sent as an event, after which the stream ends without ``[DONE]``. ``close`` is called however it ends.
    """

    def __init__(self, payloads: AsyncIterator[str], close: Callable[[], None], keep_alive_s: float) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._payloads = payloads
        self._close = close
        self._keep_alive_s = keep_alive_s
        self._num_events = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send_all(send))
        leaving = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Before anything else: the engine should hear of it within the step.
            self._close()
            for task in (sending, leaving):
                task.cancel()
            results = await asyncio.gather(sending, leaving, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for payload in kept_alive(self._payloads, self._keep_alive_s):
                await self._send(send, PING if payload is None else self._event(payload))
            await self._send(send, self._event(DONE))
        except PlaitError as error:
            await self._send(send, self._event(error_json(error)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _event(self, payload: str) -> bytes:
        self._num_events += 1
        return f"id: {self._num_events}\ndata: {payload}\n\n".encode()

    async def _send(self, send: Send, body: bytes) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def kept_alive(payloads: AsyncIterator[str], keep_alive_s: float) -> AsyncIterator[str | None]:
    """Yield the payloads, and None whenever ``keep_alive_s`` seconds have passed without one."""
    pending: asyncio.Task[str] | None = None
    try:
        while True:
            pending = pending or asyncio.create_task(_next(payloads))
            done, _ = await asyncio.wait({pending}, timeout=keep_alive_s)
            if not done:
                yield None
                continue
            try:
                payload = pending.result()
            except StopAsyncIteration:
                return
            pending = None
            yield payload
    finally:
        if pending is not None:
            pending.cancel()


async def disconnected(receive: Receive) -> None:
    """Return when the client is gone; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _next(payloads: AsyncIterator[str]) -> str:
    return await anext(payloads)
