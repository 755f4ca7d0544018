"""Reads requests of clients that offer to go over to another protocol: the offer is not taken, and the request is read like any other.

Java's own client and ``curl --http2`` offer HTTP/2 with every request in the clear. httptools takes an offer for granted: it ends the
request with its head, and nobody reads the body.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

import httptools


class DecliningParser(httptools.HttpRequestParser):
    """httptools' parser for ``protocol``, which reports heads without their offers through ``plain_head``; None: it is no mere offer."""

    def __init__(self, protocol: object, plain_head: Callable[[], bytes | None]) -> None:
        super().__init__(protocol)
        self._plain_head = plain_head

    def feed_data(self, data: bytes | bytearray | memoryview | array[int]) -> None:
        """Feed what a client sent.

        Raises:
            httptools.HttpParserError: it is no request.
            httptools.HttpParserUpgrade: it asks for a tunnel.
        """
        pieces = [memoryview(data)]
        while pieces:
            piece = pieces.pop()
            try:
                super().feed_data(piece)
            except httptools.HttpParserUpgrade as offer:
                head = self._plain_head()
                if head is None:
                    raise
                pieces += [piece[offer.args[0] :], memoryview(head)]
