"""A real server for a load test: ``plait serve`` in a process of its own, on a free port."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def served(model: str | None, arguments: Sequence[str] = ()) -> Iterator[str]:
    """Serve ``model`` (None: storybook) and yield the address once requests are taken.

    Raises:
        RuntimeError: the server ended before it was ready; what it said is the message.
    """
    chosen = ["--model", model] if model else []
    command = [sys.executable, "-m", "server", "serve", "--port", "0", *chosen, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            url = _address(process.stderr)
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield url
        finally:
            process.terminate()


def _address(lines: Iterator[str]) -> str:
    said: list[str] = []
    for line in lines:
        said.append(line)
        found = re.search(r"serving \S+ at (http://\S+)", line)
        if found:
            return found.group(1)
    raise RuntimeError("the server ended before it was ready:\n" + "".join(said))
