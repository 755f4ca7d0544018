"""Server-sent events: a reader's view of one stream, numbered, kept alive while nothing happens, ended when the client leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.api.body_send import body_send
from server.api.disconnects import disconnected
from server.api.errors import error_json
from server.errors import PlaitError
from server.serving.reading import Reading
from server.serving.surfaces import Piece
from server.store.store import StoredEvent

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no", "content-type": "text/event-stream; charset=utf-8"}
PING = b": ping\n"
"""A comment that the next event will carry. With an empty line of its own the official Python client takes it for an event without data,
once any event has had an id (openai 3.54: ``SSEDecoder.decode``), and fails on it."""
PING_ALONE = b": ping\n\n"
"""The same where events have no ids: for parsers that take what lies between two empty lines for one thing, data or comment."""
DONE = "[DONE]"


def failure_event(error: PlaitError) -> Piece:
    """Return the event that ends a stream which failed; no ``[DONE]`` follows it."""
    return Piece(error_json(error), is_final=True)


class EventStream(Response):
    """Sends a stream's events, under their sequence numbers unless not ``has_ids``. The reading is closed however it ends.

    When the stream itself gets out of reach, the connection just ends: the client asks again from where it is.
    """

    def __init__(self, reading: Reading, headers: Mapping[str, str], keep_alive_s: float, *, has_ids: bool = True) -> None:
        super().__init__(headers={**HEADERS, **headers})
        del self.headers["content-length"]
        self._reading = reading
        self._keep_alive_s = keep_alive_s
        self._has_ids = has_ids
        self._last_sent = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send_all(send, body_send(scope, send)))
        leaving = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._reading.close()
            for task in (sending, leaving):
                task.cancel()
            results = await asyncio.gather(sending, leaving, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _send_all(self, send: Send, send_body: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        pinging = asyncio.create_task(self._keep_alive(send_body))
        try:
            while events := await self._reading.next():
                self._last_sent = time.monotonic()
                body = b"".join([frame(event, has_id=self._has_ids) for event in events])
                await send_body({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            pinging.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self, send: Send) -> None:
        """Send a comment whenever nothing has been sent for `keep_alive_s`; a task of its own, so that events need no timer each."""
        while True:
            silent_s = time.monotonic() - self._last_sent
            if silent_s < self._keep_alive_s:
                await asyncio.sleep(self._keep_alive_s - silent_s)
            else:
                self._last_sent = time.monotonic()
                await send({"type": "http.response.body", "body": PING if self._has_ids else PING_ALONE, "more_body": True})


def frame(event: StoredEvent, *, has_id: bool) -> bytes:
    """Return an event as it goes over the wire."""
    number = f"id: {event.sequence}\n" if has_id else ""
    name = f"event: {event.name}\n" if event.name else ""
    return f"{number}{name}data: {event.payload}\n\n".encode()
