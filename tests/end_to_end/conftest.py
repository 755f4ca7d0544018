"""Real servers: `plait serve` as a process with the real engine, on the golden checkpoint, and on the model it comes with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.fleet.replica import served

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
SMALL = ("--num-threads", "1", "--num-pages", "4000")


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """Serve the golden checkpoint."""
    with served("--model", str(CHECKPOINT), *SMALL) as server:
        yield server.url


@pytest.fixture(scope="session")
def storybook_url() -> Iterator[str]:
    """Serve what is served when nothing is asked for."""
    with served(*SMALL) as server:
        yield server.url


@pytest.fixture
def http(server_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server_url, timeout=120) as client:
        yield client
