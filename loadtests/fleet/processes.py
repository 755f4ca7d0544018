"""Processes on ports of this machine that can be stopped, killed and started again; what each says is a file in the fleet's directory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

START_S = 180.0
STOP_S = 100.0
"""Longer than a server may take to let its answers finish."""
LOOK_AGAIN_S = 0.05
KEPT_LINES = 20
"""Lines of a log that are shown when its process does not start."""


class DidNotStart(RuntimeError):
    """Something was not ready in time; the message says what."""


@dataclass(slots=True)
class Service:
    """One process, its command line, its log, and how to see that it is ready."""

    name: str
    command: Sequence[str]
    log: Path
    answers: Callable[[], bool]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it must not be running. `wait_until_ready` says when it can be used."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_until_ready(self) -> None:
        """Wait until it answers.

        Raises:
            DidNotStart: it ended or stayed silent; the message holds the end of its log.
        """
        try:
            wait_until(lambda: self.answers() or not self.is_running, START_S, f"{self.name} is not ready")
        except DidNotStart as silent:
            raise DidNotStart(f"{silent}:\n{self._last_words()}") from None
        if not self.is_running:
            raise DidNotStart(f"{self.name} ended:\n{self._last_words()}")

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
        """Ask it to end and wait; by force when it takes too long."""
        if self.process is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once, as a machine that fails does."""
        assert self.process is not None, f"{self.name} was never started"
        self.process.kill()
        self.process.wait()

    def children(self) -> list[int]:
        """List the processes it has started."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def _last_words(self) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-KEPT_LINES:])


def free_port() -> int:
    """Return a TCP port that was free a moment ago, for a process that cannot say which one it took, or must keep the one it has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_until(is_true: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait for something; ``what`` says that it did not come.

    Raises:
        DidNotStart: it did not come.
    """
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            raise DidNotStart(what)
        time.sleep(LOOK_AGAIN_S)


def answers_ok(url: str) -> bool:
    """Say whether a GET is answered with 200."""
    try:
        return httpx.get(url, timeout=5.0).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def listens(port: int) -> bool:
    """Say whether somebody takes connections at a port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False
