"""What a soak watches: memory and file handles of every process of a fleet, pages in use, memory of Redis."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
from redis import Redis

from loadtests.fleet.box import Fleet
from loadtests.fleet.replica import Replica


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One process at one moment. ``name``: the replica's number and whether it is its front or its engine."""

    name: str
    age_s: float
    rss_mb: float
    file_handles: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The fleet at one moment; at rest when nobody had asked anything for a while."""

    at_s: float
    is_at_rest: bool
    processes: tuple[ProcessSample, ...]
    redis_mb: float
    pages_used: int

    def line(self) -> str:
        """Say it in one line of a table."""
        each = "  ".join(f"{one.name} {one.rss_mb:4.0f} MB {one.file_handles:3}" for one in self.processes)
        rest = "rest" if self.is_at_rest else "    "
        return f"{self.at_s:6.0f} s {rest} pages {self.pages_used:4}  redis {self.redis_mb:5.1f} MB  {each}"


def sample(fleet: Fleet, at_s: float, *, is_at_rest: bool = False) -> Sample:
    """Measure the fleet; every server must be up."""
    processes = [
        _process(f"{number} {kind}", pid)
        for number, replica in enumerate(fleet.replicas)
        for kind, pid in zip(("front", "engine"), _family(replica), strict=False)
    ]
    assert fleet.redis is not None
    with Redis(port=fleet.redis.port) as redis:
        redis_mb = int(redis.info("memory")["used_memory"]) / 1e6
    return Sample(round(at_s, 1), is_at_rest, tuple(processes), redis_mb, pages_used(fleet))


def pages_used(fleet: Fleet) -> int:
    """Return how many pages the requests of all replicas hold."""
    return sum(map(_pages_used, fleet.replicas))


def _pages_used(replica: Replica) -> int:
    found = re.search(r"^plait_pages_used (\S+)$", httpx.get(f"{replica.url}/metrics", timeout=30).text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def _family(replica: Replica) -> list[int]:
    """Return the front and, after it, its engine."""
    return [replica.service.pid, *replica.service.children()]


def _process(name: str, pid: int) -> ProcessSample:
    directory = Path(f"/proc/{pid}")
    status = (directory / "status").read_text(encoding="utf-8")
    rss = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert rss is not None, f"process {pid} has no memory"
    age_s = time.time() - directory.stat().st_ctime
    return ProcessSample(name, round(age_s, 1), int(rss[1]) / 1024, len(list((directory / "fd").iterdir())))
