"""A real Redis whose answers can be lost: it does what it is told, and the connection ends before the answer is there."""

from __future__ import annotations

import hashlib
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis

from tests.redis_server import redis_on_socket

CHUNK_BYTES = 1 << 20
STOP_WITHIN_S = 0.02


class LossyRedis:
    """The way to a Redis, at ``url``; ``whole_url`` leads there without a loss."""

    def __init__(self, whole_url: str, path: Path) -> None:
        self.whole_url = whole_url
        self.url = f"unix://{path}"
        self._doomed = b""
        self._num_doomed = 0

    def lose_answers(self, script: str, times: int) -> None:
        """Lose the answers to the next ``times`` runs of a script; the store itself asks a second time when it loses one."""
        with Redis.from_url(self.whole_url) as redis:
            redis.script_load(script)
        self._doomed = b"EVALSHA\r\n$40\r\n" + hashlib.sha1(script.encode()).hexdigest().encode()
        self._num_doomed = times

    @property
    def has_lost_all(self) -> bool:
        """Every answer that was to be lost is."""
        return not self._num_doomed

    def carry(self, client: socket.socket) -> None:
        """Carry what one client and Redis say to each other, until one of them ends it or an answer is lost."""
        with socket.socket(socket.AF_UNIX) as redis:
            redis.connect(self.whole_url.removeprefix("unix://"))
            is_doomed = False
            while True:
                for speaker in select.select([client, redis], [], [])[0]:
                    said = speaker.recv(CHUNK_BYTES)
                    if not said or (speaker is redis and is_doomed):
                        return
                    is_doomed = is_doomed or self._dooms(said)
                    (redis if speaker is client else client).sendall(said)

    def _dooms(self, asked: bytes) -> bool:
        if not self._num_doomed or self._doomed not in asked:
            return False
        self._num_doomed -= 1
        return True


@contextmanager
def lossy_redis(directory: Path) -> Iterator[LossyRedis]:
    """Run a Redis and a lossy way to it until the block ends."""
    with redis_on_socket(directory) as whole_url:
        lossy = LossyRedis(whole_url, directory / "lossy.sock")

        class Carrier(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                lossy.carry(self.request)

        class Carriers(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            block_on_close = False

        with Carriers(str(directory / "lossy.sock"), Carrier) as carriers:
            threading.Thread(target=carriers.serve_forever, args=(STOP_WITHIN_S,), daemon=True).start()
            try:
                yield lossy
            finally:
                carriers.shutdown()
