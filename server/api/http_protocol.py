"""uvicorn's HTTP protocol with bounds on what no route sees: the head of a request, what stands round its body, what is left of it when it
has been answered, and answers that their clients do not take.

Without them a client that sends a byte now and then, or reads nothing, holds a connection for ever, and one that sends headers without end
fills the memory before any route is asked. What is refused here has reached no application, so the answer is made by hand.
"""

from __future__ import annotations

import asyncio
import time

from uvicorn._types import ASGI3Application, ASGISendEvent
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
REST_TIMEOUT_S = 15.0
"""From the end of an answer to the next request."""
UPLOAD_TIMEOUT_S = 60.0
"""The same where the body of what was answered is still coming: a client that sends all of it before it reads loses a refusal with the
connection. As long as a body may take that is not refused."""
UNREAD_TIMEOUT_S = 60.0
"""How long a client may take nothing of what waits for it; what it has seen it need not ask for again (`server.api.streams`)."""


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
        self._rest_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._answered_now: RequestResponseCycle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells the latest request of it, which may be waiting for the answer to one before.
        self.pipeline.clear()
        if self._answered_now is not None and not self._answered_now.response_complete:
            self._answered_now.disconnected = True
            self._answered_now.message_event.set()
        self._stop_head_timer()
        self._stop_rest_timer()
        self._stop_unread_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # Of a head all bytes count, of a body those that come without any of it: names of chunks, and headers after the last one.
        self._num_head_bytes += len(data)
        super().data_received(data)
        if self._num_head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HeadersTooLarge(f"The headers have more than {MAX_HEAD_BYTES} bytes."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._stop_rest_timer()
        # Before a task of its own has the request: on a busy loop that task waits, and a client waits with it.
        self.scope["state"][ARRIVED] = time.monotonic()
        self._num_head_bytes = 0
        self._head_is_complete = False
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_took_too_long)

    def on_header(self, name: bytes, value: bytes) -> None:
        # A field behind the body is none of the head (RFC 9110, 6.5.1), which was judged without it.
        if not self._head_is_complete:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_is_complete = True
        self._num_head_bytes = 0
        self._stop_head_timer()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            message = f"There are more than {MAX_HEADERS} headers, or they have more than {MAX_HEAD_BYTES} bytes together."
            self._refusal = HeadersTooLarge(message)
            raise TooMuchHead
        if not self._is_offer():
            super().on_headers_complete()
            if self.parser.get_http_version() == "1.0":
                # Before the task that has the request begins.
                self.cycle.send = UnframedBody(self.cycle).send  # type: ignore[method-assign]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered_now = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._num_head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_head_bytes = 0
        if not self._is_offer():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to wait for what follows an answer; uvicorn's own wait ends with the next byte, whatever that is."""
        super().on_response_complete()
        if self.cycle.response_complete and self._head_timer is None:
            self._stop_rest_timer()
            timeout_s = UPLOAD_TIMEOUT_S if self.cycle.more_body else REST_TIMEOUT_S
            self._rest_timer = self.loop.call_later(timeout_s, self._close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_unread()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_unread_timer()
        if self.transport.is_closing():
            self._watch_unread()

    def _close(self) -> None:
        """Close the connection, which stays until what waits for the client has gone out."""
        self.transport.close()
        self._watch_unread()

    def _watch_unread(self) -> None:
        """End the connection if its client takes nothing any more; from here on nothing is added to what waits for it."""
        num_unread = self.transport.get_write_buffer_size()
        if num_unread and self._unread_timer is None:
            self._unread_timer = self.loop.call_later(UNREAD_TIMEOUT_S, self._end_if_unread, num_unread)

    def _end_if_unread(self, num_unread_before: int) -> None:
        self._unread_timer = None
        if self.transport.get_write_buffer_size() >= num_unread_before:
            self.transport.abort()
        else:
            self._watch_unread()

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
        if self._answered_now is not None and not self._answered_now.response_complete:
            # The next request may take its time while the last one's answer does, be it begun or not.
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_took_too_long)
        elif not self.transport.is_closing():
            self._refuse(RequestTimeout(f"The headers took more than {HEAD_TIMEOUT_S:g} seconds."))

    @property
    def _is_answering(self) -> bool:
        cycle = self._answered_now
        return cycle is not None and cycle.response_started and not cycle.response_complete

    @property
    def _is_answered(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete and self._head_is_complete

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_rest_timer(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _refuse(self, error: PlaitError) -> None:
        # In the middle of an answer, or behind it, another one would be taken for a part of it or for the next request's.
        if not (self._is_answering or self._is_answered):
            body = error_json(error).encode()
            head = [
                STATUS_LINE[status_of(error)],
                b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body),
            ]
            self.transport.write(b"".join([*head, body]))
        self._close()
