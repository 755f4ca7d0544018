"""A real Redis for tests: a process of its own behind a Unix socket."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

START_S = 10.0


@contextmanager
def redis_on_socket(directory: Path, *options: str) -> Iterator[str]:
    """Run Redis, with further ``options``, until the block ends; yield its URL."""
    path = directory / "redis.sock"
    arguments = ["--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", str(directory), *options]
    with subprocess.Popen(["redis-server", *arguments], stdout=subprocess.DEVNULL) as process:
        try:
            wait_for_redis(f"unix://{path}")
            yield f"unix://{path}"
        finally:
            process.kill()


def wait_for_redis(url: str) -> None:
    """Wait until Redis answers."""
    deadline = time.monotonic() + START_S
    with Redis.from_url(url) as redis:
        while True:
            try:
                redis.ping()
                return
            except RedisError:
                assert time.monotonic() < deadline, "Redis did not start"
                time.sleep(0.02)
