"""uvicorn's HTTP protocol with bounds on what comes before a request is known: how long its head may take, and how large it may be.

Without them a client that sends a byte now and then holds a connection for ever, and one that sends headers without end fills the memory
before any route is asked. What is refused here has reached no application, so the answer is made by hand.
"""

from __future__ import annotations

import asyncio
import time

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from server.api.errors import error_json, status_of
from server.api.http_parser import DecliningParser
from server.api.middleware import ARRIVED
from server.errors import HeadersTooLarge, InvalidRequest, PlaitError, RequestTimeout

MAX_HEAD_BYTES = 32 << 10
"""Request line and headers together."""
MAX_HEADERS = 100
HEAD_TIMEOUT_S = 15.0
"""From the first byte, or from the connection, to the end of the headers."""


class TooMuchHead(Exception):
    """Thrown through the parser to stop it."""


class UnframedBody:
    """An answer to a client of HTTP/1.0, which knows no chunks (RFC 9112, 6.1): a body of unknown length ends with its connection."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._send = cycle.send
        self._is_counted = True

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message of the application."""
        if message["type"] == "http.response.start":
            self._is_counted = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            if not self._is_counted:
                self._cycle.chunked_encoding = False
        elif message["type"] == "http.response.body" and not self._is_counted:
            # uvicorn counts the bytes down from the length that was announced; here each piece announces its own.
            self._cycle.expected_content_length = len(message.get("body", b""))
        await self._send(message)


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.parser = DecliningParser(self, self._plain_head)
        # As uvicorn sets up its own, which this one replaces.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._num_head_bytes = 0
        self._head_is_complete = False
        self._refusal: PlaitError = InvalidRequest("This is not a valid HTTP request.")
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(HEAD_TIMEOUT_S, self._head_took_too_long)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._head_is_complete:
            self._num_head_bytes += len(data)
        super().data_received(data)
        if not self._head_is_complete and self._num_head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HeadersTooLarge(f"The headers have more than {MAX_HEAD_BYTES} bytes."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # Before a task of its own has the request: on a busy loop that task waits, and a client waits with it.
        self.scope["state"][ARRIVED] = time.monotonic()
        self._num_head_bytes = 0
        self._head_is_complete = False
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_took_too_long)

    def on_headers_complete(self) -> None:
        self._head_is_complete = True
        self._stop_head_timer()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            message = f"The headers are more than {MAX_HEADERS}, or have more than {MAX_HEAD_BYTES} bytes."
            self._refusal = HeadersTooLarge(message)
            raise TooMuchHead
        if not self._is_offer():
            super().on_headers_complete()
            if self.parser.get_http_version() == "1.0":
                # Before the task that has the request begins.
                self.cycle.send = UnframedBody(self.cycle).send  # type: ignore[method-assign]

    def on_message_complete(self) -> None:
        if not self._is_offer():
            super().on_message_complete()

    def _is_offer(self) -> bool:
        """Tell whether what was read is the head of a request that offers another protocol; it comes again without the offer."""
        is_tunnel = self.parser.get_method() == b"CONNECT"
        return self.parser.should_upgrade() and not is_tunnel

    def _plain_head(self) -> bytes | None:
        if not self._is_offer():
            return None
        first = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        return first + b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade") + b"\r\n"

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refuses; it calls this by its own name for every reason."""
        self._refuse(self._refusal)

    def _head_took_too_long(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(RequestTimeout(f"The headers took more than {HEAD_TIMEOUT_S:g} seconds."))

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, error: PlaitError) -> None:
        body = error_json(error).encode()
        head = [
            STATUS_LINE[status_of(error)],
            b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body),
        ]
        self.transport.write(b"".join([*head, body]))
        self.transport.close()
