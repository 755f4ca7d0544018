"""Starts a server for one command, when none is named: `plait serve` in a child process, on a port of its own, until the command ends."""

from __future__ import annotations

import collections
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from server.cli.command import ExitStatus, Refused
from server.serving.engine_launch import command_line
from server.settings import private_environment

SERVING = re.compile(r"^plait: serving .+ at (http://\S+)")
"""How `plait serve` says that it is ready, and where."""

STOP_S = 10.0
KEPT_LINES = 20
"""Lines of the server's log that are shown when it fails."""


@contextmanager
def own_server(options: Sequence[str]) -> Iterator[OwnServer]:
    """Start ``plait serve`` with ``options`` and give the server, which is loading; stop it in the end."""
    arguments = ["serve", "--port", "0", "--log-level", "warning", "--log-format", "text", "--drain-s", "1", *options]
    with subprocess.Popen(
        command_line(arguments),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=private_environment(),
    ) as process:
        try:
            yield OwnServer(process)
        finally:
            _stop(process)


class OwnServer:
    """A server that this command has started."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def wait_for_url(self) -> str:
        """Wait until the server is ready and return its address.

        Raises:
            Refused: it ended instead; with what it said last.
        """
        assert self._process.stderr is not None
        said: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        for line in self._process.stderr:
            said.append(line.rstrip())
            if found := SERVING.search(line):
                # Somebody must go on reading, or the server would wait at a full pipe.
                threading.Thread(target=_drain, args=(self._process.stderr,), daemon=True).start()
                return found[1]
        reasons = [line.removeprefix("plait: ") for line in said if line.startswith("plait: ")]
        status = ExitStatus.BAD_INPUT if self._process.wait() == ExitStatus.BAD_INPUT else ExitStatus.ENGINE_FAILED
        raise Refused(reasons[-1] if reasons else "\n".join(said), status)


def _drain(stream: TextIO) -> None:
    for _ in stream:
        pass


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
