"""HTTP with as little work as it can be done with: the client of a flood shares the machine with the server that is measured.

A request is written as one piece of bytes; of the answer its status, one header and its end are looked for. Connections are kept and used
again, as clients of APIs do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
RETRY_AFTER = re.compile(rb"\r\nretry-after: (\d+)", re.IGNORECASE)


class ConnectionEnded(Exception):
    """The server closed the connection instead of answering. ``was_used``: it had answered before, and may just have been idle too long."""

    def __init__(self, *, was_used: bool) -> None:
        super().__init__("the connection was closed")
        self.was_used = was_used


@dataclass(frozen=True, slots=True)
class Answer:
    """What a flood wants to know of an answer."""

    status: int
    retry_after_s: float | None


class _Connection(asyncio.Protocol):
    """One connection, one request at a time. Answers must say their length."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._received = bytearray()
        self._num_expected = 0
        self._num_answered = 0
        self.is_open = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._num_expected and (end := self._received.find(HEAD_END)) >= 0:
            length = LENGTH.search(self._received, 0, end + 2)
            self._num_expected = end + len(HEAD_END) + (int(length[1]) if length else 0)
        if self._num_expected and len(self._received) >= self._num_expected:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionEnded(was_used=self._num_answered > 0))

    async def ask(self, request: bytes) -> Answer:
        """Send a request and return its answer.

        Raises:
            ConnectionEnded
        """
        assert self._transport is not None
        if not self.is_open:
            raise ConnectionEnded(was_used=True)
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def _finish(self) -> None:
        status, wait_s = int(self._received[9:12]), RETRY_AFTER.search(self._received)
        answer = Answer(status, float(wait_s[1]) if wait_s else None)
        self._received.clear()
        self._num_expected = 0
        self._num_answered += 1
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


class Connections:
    """Connections to one server, as many as there are requests under way."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 80
        self._idle: list[_Connection] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[Self]:
        """Yield connections to the server at ``url``, closed at the end."""
        connections = cls(url)
        try:
            yield connections
        finally:
            for connection in connections._idle:
                connection.close()

    def post(self, path: str, body: dict[str, object], headers: dict[str, str]) -> bytes:
        """Return a request as it goes over the wire."""
        encoded = json.dumps(body).encode()
        lines = [
            f"POST {path} HTTP/1.1",
            f"host: {self._host}:{self._port}",
            "content-type: application/json",
            f"content-length: {len(encoded)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return "\r\n".join(lines).encode() + HEAD_END + encoded

    async def ask(self, request: bytes) -> Answer:
        """Send a request over an idle connection or a new one and return its answer.

        Raises:
            OSError, ConnectionEnded
        """
        connection = await self._connection()
        try:
            answer = await connection.ask(request)
        except ConnectionEnded as ended:
            if not ended.was_used:
                raise
            # It was closed for its idleness, in the moment when it was taken: nobody has seen the request.
            connection = await self._new()
            answer = await connection.ask(request)
        except asyncio.CancelledError:
            connection.close()
            raise
        self._idle.append(connection)
        return answer

    async def _connection(self) -> _Connection:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        return await self._new()

    async def _new(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
        return connection
