"""Bounds on a request's body: how large, how slow, and in what form. They hold whoever reads it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from server.errors import BodyTooLarge, RequestTimeout, UnsupportedMediaType


@dataclass(frozen=True, slots=True)
class BodyBounds:
    """``max_bytes`` in all; ``timeout_s``: seconds from the headers to the last byte."""

    max_bytes: int
    timeout_s: float = 60.0

    def apply(self, scope: Scope, receive: Receive) -> Receive:
        """Return a ``receive`` that raises BodyTooLarge, RequestTimeout or UnsupportedMediaType where ``receive`` would go on.

        A body beyond the limit is refused by its announced length or as it comes; a compressed one by its header, since what it becomes
        has no bound. Once the body is complete nothing is timed: from there on `receive` waits for the client to leave.
        """
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "0")
        deadline = time.monotonic() + self.timeout_s
        num_bytes = 0
        is_complete = False

        async def bounded() -> Message:
            nonlocal num_bytes, is_complete
            if announced.isdecimal() and int(announced) > self.max_bytes:
                raise self._too_large()
            if headers.get("content-encoding", "identity").lower() != "identity":
                raise UnsupportedMediaType("The body must not be compressed: send it without Content-Encoding.")
            message = await (receive() if is_complete else self._before(deadline, receive))
            num_bytes += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if num_bytes > self.max_bytes:
                raise self._too_large()
            return message

        return bounded

    async def _before(self, deadline: float, receive: Receive) -> Message:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await receive()
        except TimeoutError as error:
            raise RequestTimeout(f"The body took more than {self.timeout_s:g} seconds.") from error

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body has more than {self.max_bytes} bytes, as many as this server takes.")
