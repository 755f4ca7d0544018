"""A policy: a way to serve a stream of requests on one device, stepped by hand. Plait's is one engine for everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from loadtests.replays.metered import MeteredRunner
from server.engine.link import LocalLink
from server.engine.loop import Engine
from server.engine.scheduler import Scheduler
from server.messages import Request, StepReport


class Policy(Protocol):
    """What a replay needs of a server."""

    @property
    def has_work(self) -> bool: ...

    def submit(self, request: Request) -> None: ...

    def note_idle(self, seconds: float) -> None:
        """Take in that there was nothing to do for ``seconds`` that no clock has shown."""
        ...

    def step(self) -> list[StepReport]:
        """Make one step; return what came out, under the ids of the requests submitted."""
        ...

    def stand_still(self) -> None:
        """Let nothing go on until `go_on`."""
        ...

    def go_on(self) -> None:
        """Let go on what stood still."""
        ...


class RunsBeside(Protocol):
    """A runner that may compute beside the steps, and can be told not to, for a while or for good."""

    def stand_still(self) -> None: ...

    def go_on(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Plait:
    """One engine, one queue, one batch: words and pictures together."""

    engine: Engine
    scheduler: Scheduler
    link: LocalLink
    runner: RunsBeside | None = None
    """What may have a pass under way beside the steps."""

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def submit(self, request: Request) -> None:
        self.engine.submit(request)

    def note_idle(self, seconds: float) -> None:
        self.scheduler.words_first.note_idle(seconds)

    def step(self) -> list[StepReport]:
        self.engine.step()
        reports = list(self.link.reports)
        self.link.reports.clear()
        return reports

    def stand_still(self) -> None:
        if self.runner is not None:
            self.runner.stand_still()

    def go_on(self) -> None:
        if self.runner is not None:
            self.runner.go_on()

    def close(self) -> None:
        """End it: no step may follow."""
        if self.runner is not None:
            self.runner.close()


@dataclass(frozen=True, slots=True)
class MeteredPlait:
    """Plait's policy and the notes of its runner."""

    policy: Plait
    runner: MeteredRunner
