"""Starts the engine process, and defines what the front needs of it. The API process itself never imports torch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from server.serving.installation import python_command


class EngineProcess(Protocol):
    """A started engine, as `asyncio.subprocess.Process` is one."""

    @property
    def returncode(self) -> int | None: ...

    async def wait(self) -> int:
        """Return its exit status once it has ended."""
        ...

    def kill(self) -> None:
        """End it now."""
        ...


Launch = Callable[[Path], Awaitable[EngineProcess]]
"""Starts an engine that connects to the Unix socket at the given path."""


def command_line(arguments: Sequence[str]) -> list[str]:
    """Return the command that runs this installation's ``plait`` with ``arguments`` in another process."""
    return python_command("server.__main__", arguments)


def subprocess_launcher(options_json: str, logging_arguments: Sequence[str], environment: Mapping[str, str]) -> Launch:
    """Return what starts ``plait engine`` with the given options, in ``environment``.

    The child is in a session of its own, so that a Ctrl-C in the terminal reaches the front alone; it ends by itself when its standard
    input closes, that is, when the front is gone for whatever reason.
    """

    async def launch(socket_path: Path) -> EngineProcess:
        arguments = ["engine", "--socket", str(socket_path), "--options", options_json, *logging_arguments]
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*command_line(arguments), stdin=pipe, start_new_session=True, env=environment)

    return launch
