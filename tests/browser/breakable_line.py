"""The way from a browser to a server, which can break: what is on it ends at once, and whoever comes is turned away until it is whole."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

CHUNK_BYTES = 1 << 16
NOTICE_WITHIN_S = 0.02


class BreakableLine:
    """The way to the server at ``far_url``."""

    def __init__(self, far_url: str) -> None:
        self._far = (urlsplit(far_url).hostname, urlsplit(far_url).port)
        self._is_broken = threading.Event()
        self.url = ""

    def break_down(self) -> None:
        self._is_broken.set()

    def mend(self) -> None:
        self._is_broken.clear()

    def carry(self, client: socket.socket) -> None:
        """Carry what a browser and the server say to each other, until one of them ends it or the line breaks."""
        if self._is_broken.is_set():
            return
        with socket.create_connection(self._far) as server:
            while not self._is_broken.is_set():
                for speaker in select.select([client, server], [], [], NOTICE_WITHIN_S)[0]:
                    said = speaker.recv(CHUNK_BYTES)
                    if not said:
                        return
                    (server if speaker is client else client).sendall(said)


@contextmanager
def breakable_line(far_url: str) -> Iterator[BreakableLine]:
    """Open a way to a server until the block ends."""
    line = BreakableLine(far_url)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            line.carry(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        line.url = "http://127.0.0.1:{1}".format(*server.server_address)
        thread = threading.Thread(target=server.serve_forever, args=(NOTICE_WITHIN_S,))
        thread.start()
        try:
            yield line
        finally:
            line.break_down()
            server.shutdown()
            thread.join()
