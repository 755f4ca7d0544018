"""One real server of a test: ``plait serve`` in a process of its own, on a port that it keeps when it is started again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtests.fleet.core_share import CoreShare
from loadtests.fleet.processes import Service, answers_ok, free_port
from server.serving.engine_launch import command_line


@dataclass(frozen=True, slots=True)
class Replica:
    """A server, where it answers, and the directory through which a test may break its engine."""

    number: int
    service: Service
    port: int
    fault_dir: Path

    @classmethod
    def planned(cls, number: int, directory: Path, options: Sequence[str], share: CoreShare | None = None) -> Replica:
        """Choose a port; its log and what it is broken through lie in ``directory``. ``share``: what it may use of the cores."""
        port, fault_dir = free_port(), directory / f"faults-{number}"
        fault_dir.mkdir(parents=True, exist_ok=True)
        command = command_line(["serve", "--port", str(port), "--fault-dir", str(fault_dir), *options])
        service = Service(
            f"replica {number}",
            share.entering(command) if share else command,
            directory / f"replica-{number}.log",
            lambda: answers_ok(f"http://127.0.0.1:{port}/readyz"),
        )
        return cls(number, service, port, fault_dir)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/metrics"

    def restart(self) -> None:
        """Stop it as a rollout does, start it again and wait until it is ready."""
        self.service.stop()
        self.service.start()
        self.service.wait_until_ready()


@contextmanager
def served(*options: str) -> Iterator[Replica]:
    """Run one server until the block ends; without a ``--model`` it serves storybook.

    Raises:
        DidNotStart: it ended before it was ready; what it said is in the message.
    """
    with tempfile.TemporaryDirectory(prefix="plait-served-") as directory:
        replica = Replica.planned(1, Path(directory), options)
        replica.service.start()
        try:
            replica.service.wait_until_ready()
            yield replica
        finally:
            replica.service.stop()
