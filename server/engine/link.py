"""The engine's end of the wire, as the engine sees it: requests come in, reports go out. Who carries them is not its concern."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from server.messages import Abort, EngineReady, LoadProgress, Request, Shutdown, StepReport

Incoming = Request | Abort | Shutdown


class Link(Protocol):
    """Carries messages between the engine loop and whoever feeds it."""

    def receive(self, timeout_s: float) -> list[Incoming]:
        """Return what has arrived, waiting at most ``timeout_s`` seconds for the first message; 0 does not wait."""
        ...

    def send_load_progress(self, progress: LoadProgress) -> None: ...

    def send_ready(self, ready: EngineReady) -> None: ...

    def send(self, report: StepReport) -> None: ...


class LocalLink:
    """A link inside one process, for tests, benchmarks and machines without a socket library: push in, read `reports`."""

    def __init__(self) -> None:
        self._incoming: deque[Incoming] = deque()
        self.progress: list[LoadProgress] = []
        self.ready: EngineReady | None = None
        self.reports: deque[StepReport] = deque()

    def push(self, message: Incoming) -> None:
        """Queue a message for the engine."""
        self._incoming.append(message)

    def receive(self, timeout_s: float) -> list[Incoming]:
        messages = list(self._incoming)
        self._incoming.clear()
        return messages

    def send_load_progress(self, progress: LoadProgress) -> None:
        self.progress.append(progress)

    def send_ready(self, ready: EngineReady) -> None:
        self.ready = ready

    def send(self, report: StepReport) -> None:
        self.reports.append(report)
