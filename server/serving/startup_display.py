"""Tells whoever started the server how far loading is, where the server can be reached, and what to try."""

from __future__ import annotations

import json
import shlex
from typing import TextIO

from server.engine.memory_plan import PictureRoom
from server.logs import Say
from server.messages import EngineReady, LoadProgress
from server.serving.engine_client import EngineClient, EnginePhase, EngineStatus
from server.serving.served_model import ServedModel

BAR_CHARS = 30
PERCENT_PER_LINE = 20
"""Without a terminal, progress is one line for each so many percent."""


def curl_line(url: str, model_name: str) -> str:
    """Return a command that asks the server for words and pictures."""
    body = {
        "model": model_name,
        "modalities": ["text", "image"],
        "stream": True,
        "messages": [{"role": "user", "content": "Tell a story about a small red star."}],
    }
    return f"curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"


class StartupDisplay:
    """Says how things stand as the engine's status changes; ``max_running`` requests may hold pages at once.

    ``terminal`` is where a bar can move, None where every step is a line.
    """

    def __init__(self, say: Say, terminal: TextIO | None, model: ServedModel, url: str, max_running: int) -> None:
        self._say = say
        self._terminal = terminal
        self._model = model
        self._url = url
        self._max_running = max_running
        self._last_percent = -PERCENT_PER_LINE

    async def follow(self, engine: EngineClient) -> None:
        """Show every change; runs until cancelled."""
        self._say(f"loading {self._model.name}; {self._url} answers, {self._url}/readyz says when it is ready")
        phase = engine.status.phase
        while True:
            status = await engine.status_change()
            if status.phase is EnginePhase.LOADING and status.progress is not None:
                self._show_progress(status.progress)
            elif status.phase is EnginePhase.READY and phase is not EnginePhase.READY:
                self._show_ready(status)
            phase = status.phase

    def _show_progress(self, progress: LoadProgress) -> None:
        if progress.graphs_total:
            self._show_graphs(progress.graphs_done, progress.graphs_total)
            return
        percent = 100 * progress.bytes_done // max(1, progress.bytes_total)
        size = f"{progress.bytes_done / 1e6:,.1f} of {progress.bytes_total / 1e6:,.1f} MB"
        if self._terminal is not None:
            filled = BAR_CHARS * percent // 100
            self._terminal.write(f"\rplait: [{'#' * filled}{'.' * (BAR_CHARS - filled)}] {percent:3} %  {size} ")
            self._terminal.flush()
        elif percent >= self._last_percent + PERCENT_PER_LINE or percent < self._last_percent:
            self._last_percent = percent
            self._say(f"loading {percent} % ({size})")

    def _show_graphs(self, done: int, total: int) -> None:
        shown = f"decode steps captured as graphs: {done} of {total}"
        if self._terminal is not None:
            self._terminal.write(f"\r\x1b[Kplait: {shown} ")
            self._terminal.flush()
        elif done == total:
            self._say(shown)

    def _show_ready(self, status: EngineStatus) -> None:
        if self._terminal is not None:
            self._terminal.write("\n")
        limits = status.limits
        if limits is not None:
            self._show_plan(limits)
        self._say(f"serving {self._model.name} at {self._url}   (Ctrl-C stops)")
        self._say(f"open {self._url} in a browser, or")
        self._say(f"try:  {curl_line(self._url, self._model.name)}")

    def _show_plan(self, limits: EngineReady) -> None:
        room = PictureRoom.of_model(self._model.config, self._model.profile)
        at_once = room.how_many(limits.num_pages, limits.page_size, self._max_running)
        context = min(limits.max_positions, limits.max_context_rows)
        self._say(f"ready on {limits.device} in {limits.dtype}, attention by {limits.attention} kernels")
        pages = f"{limits.num_pages:,} pages of {limits.page_size} rows in {limits.kv_dtype}"
        self._say(f"plan: {pages}, context up to {context:,} rows")
        self._say(f"plan: {at_once} pictures of {room.size} at once, {self._max_running} requests in all")
