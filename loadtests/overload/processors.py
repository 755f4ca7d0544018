"""Whose work the processors do: the client of a load test shares them with the server, and its part must be seen."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Self

import psutil


@dataclass(frozen=True, slots=True)
class ProcessorUse:
    """Processors that each part kept busy on average, of those the machine has."""

    client: float
    front: float
    engine: float

    def line(self) -> str:
        """Return the figures in words."""
        return f"{self.client:.2f} client, {self.front:.2f} front, {self.engine:.2f} engine"


class ProcessorWatch:
    """Measures from its making to `use`. The server is the one child of this process, the engine among its children."""

    def __init__(self, client: psutil.Process, front: psutil.Process) -> None:
        self._client = client
        self._front = front
        self._started_s = time.monotonic()
        self._before = self._seconds()

    @classmethod
    def of_this_process(cls) -> Self:
        """Watch this process as the client of the server that it started."""
        client = psutil.Process()
        return cls(client, client.children()[0])

    def use(self) -> ProcessorUse:
        """Return what was used since."""
        passed_s = time.monotonic() - self._started_s
        client, front, engine = ((after - before) / passed_s for after, before in zip(self._seconds(), self._before, strict=True))
        return ProcessorUse(client, front, engine)

    def _seconds(self) -> tuple[float, float, float]:
        return _cpu_s(self._client), _cpu_s(self._front), sum(map(_cpu_s, self._front.children()))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
