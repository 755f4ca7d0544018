"""What whoever starts a server sees while it starts."""

from __future__ import annotations

import asyncio
import io
import json
import shlex
from typing import cast

import pytest

from model.shipped import STORYBOOK
from server.cli.own_server import SERVING
from server.logs import announcer
from server.messages import EngineReady, LoadProgress
from server.serving.engine_client import EngineClient, EnginePhase, EngineStatus
from server.serving.served_model import ServedModel
from server.serving.startup_display import StartupDisplay
from server.settings import LogFormat


class Scripted:
    """An engine client whose status takes a few values, and then no more."""

    def __init__(self, statuses: list[EngineStatus]) -> None:
        self.status = EngineStatus()
        self._statuses = statuses

    async def status_change(self) -> EngineStatus:
        if not self._statuses:
            raise asyncio.CancelledError
        self.status = self._statuses.pop(0)
        return self.status


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(out: io.StringIO, name: str = "storybook") -> str:
    progress = [LoadProgress(50, 100, "x"), LoadProgress(100, 100, "y"), *(LoadProgress(0, 0, "", done, 3) for done in (1, 2, 3))]
    ready = EngineReady(4096, 2048, 16, 256, "bfloat16", "cuda", attention="triton", kv_dtype="float8_e4m3fn")
    statuses = [EngineStatus(progress=one) for one in progress] + [EngineStatus(EnginePhase.READY, "ready", None, ready)]
    say, terminal = announcer(out, LogFormat.TEXT, "front"), out if out.isatty() else None
    display = StartupDisplay(say, terminal, ServedModel.from_directory(STORYBOOK, name, None), "http://here", 8)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(display.follow(cast(EngineClient, Scripted(statuses))))
    return out.getvalue()


def test_a_log_has_a_line_for_the_graphs_and_the_plan() -> None:
    lines = shown(io.StringIO()).splitlines()
    assert "plait: loading 100 % (0.0 of 0.0 MB)" in lines
    assert [line for line in lines if "graphs" in line] == ["plait: decode steps captured as graphs: 3 of 3"]
    assert any("256 pages of 16 rows in float8_e4m3fn" in line for line in lines)


def test_a_terminal_counts_them_in_place() -> None:
    text = shown(Terminal())
    assert all(f"captured as graphs: {done} of 3" in text for done in (1, 2, 3))
    assert "\n" not in text[text.index("1 of 3") : text.index("3 of 3")]


NAME = "Anna's own model"


def test_a_command_finds_the_server_that_it_has_started_whatever_the_model_is_called() -> None:
    """A name of several words was not foreseen, and the command waited for ever."""
    found = [SERVING.search(line) for line in shown(io.StringIO(), NAME).splitlines()]
    assert [match[1] for match in found if match] == ["http://here"]


def test_the_command_to_try_is_one_that_a_shell_understands() -> None:
    (line,) = (line for line in shown(io.StringIO(), NAME).splitlines() if "curl" in line)
    words = shlex.split(line.partition("try:")[2])
    assert json.loads(words[words.index("-d") + 1])["model"] == NAME
