"""Server processes on free ports of this machine, started, watched and stopped; each one's output is a file in the box's directory."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

START_S = 180.0
LOOK_AGAIN_S = 0.05


class DidNotStart(Exception):
    """A process ended or stayed silent; the message names its log."""


def free_port() -> int:
    """Return a port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def answers(url: str) -> bool:
    """Say whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


class Process:
    """One process with a log file. ``is_ready`` is asked until it says yes."""

    def __init__(self, command: Sequence[str], log: Path, is_ready: Callable[[], bool]) -> None:
        self._log = log
        self._is_ready = is_ready
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait for readiness.

        Raises:
            DidNotStart: it ended, or took longer than `START_S` seconds.
        """
        deadline = time.monotonic() + START_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise DidNotStart(f"not ready within {START_S:.0f} s, or ended; see {self._log}")
            time.sleep(LOOK_AGAIN_S)

    def stop(self, grace_s: float) -> int:
        """Ask it to end, and make it end after ``grace_s`` seconds; return its exit status."""
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(grace_s)
        self._process.kill()
        return self._process.wait()

    def kill(self) -> None:
        """End it at once, as a machine that fails does."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def running(process: Process, grace_s: float = 10.0) -> Iterator[Process]:
    """Wait until a process is ready, and stop it when the block ends."""
    try:
        process.wait_until_ready()
        yield process
    finally:
        process.stop(grace_s)
