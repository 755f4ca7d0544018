"""What tests of the HTTP layer share: a client of the front of their file, and a Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from tests.redis_server import redis_on_socket
from tests.server.running_front import RunningFront


@pytest.fixture(scope="module")
def http(front: RunningFront) -> Iterator[httpx.Client]:
    with front.http() as client:
        yield client


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """Run a Redis at ``redis.sock`` in the test's directory."""
    with redis_on_socket(tmp_path) as url, Redis.from_url(url) as redis:
        yield redis
