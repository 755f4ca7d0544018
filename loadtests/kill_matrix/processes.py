"""The processes of a fleet in a box, each of which can be stopped, killed and started again on its port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

STOP_S = 40.0
POLL_S = 0.05


class DidNotStart(RuntimeError):
    """A process of the fleet was not ready in time; the message names its log."""


@dataclass(slots=True)
class Service:
    """One process, its command line and its log."""

    name: str
    command: Sequence[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it must not be running."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **self.environment}
            )

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was never started"
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        if self.is_running:
            os.kill(self.pid, number)

    def stop(self) -> None:
        """End it and wait; by force when it takes too long."""
        if self.process is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def children(self) -> list[int]:
        """List the processes it has started."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def free_ports(count: int) -> list[int]:
    """Return TCP ports that were free a moment ago."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def wait_until(is_true: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait for something.

    Raises:
        DidNotStart: it did not come.
    """
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            raise DidNotStart(what)
        time.sleep(POLL_S)


def answers_ok(url: str) -> bool:
    """Tell whether a GET is answered with 200."""
    try:
        return httpx.get(url, timeout=1.0).status_code == 200
    except httpx.HTTPError:
        return False


def plait(*arguments: str) -> list[str]:
    """Return the command line of this installation's ``plait``."""
    return [sys.executable, "-P", "-m", "server", *arguments]
