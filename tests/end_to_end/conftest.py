"""Real servers: `plait serve` as a process with the real engine, on the golden checkpoint, and on the model it comes with."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from server.serving.engine_launch import command_line

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """Serve the golden checkpoint."""
    with serving("--model", str(CHECKPOINT)) as url:
        yield url


@pytest.fixture(scope="session")
def storybook_url() -> Iterator[str]:
    """Serve what is served when nothing is asked for."""
    with serving() as url:
        yield url


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Serve on a free port; the address is read from what the server prints."""
    command = command_line(["serve", "--port", "0", "--num-threads", "1", "--num-pages", "4000", *arguments])
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            yield _address(process.stderr)
        finally:
            process.terminate()
            process.stderr.read()


def _address(lines: Iterator[str]) -> str:
    for line in lines:
        found = re.search(r"serving \S+ at (http://\S+)", line)
        if found:
            return found.group(1)
    raise AssertionError("the server ended before it was ready")


@pytest.fixture
def http(server_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server_url, timeout=120) as client:
        yield client
