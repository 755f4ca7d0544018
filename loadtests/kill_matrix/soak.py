"""``python -m loadtests.kill_matrix.soak``: a fleet under load with clients that leave and servers that die; nothing may be lost or grow.

Samples are taken while no server is down: memory and file handles of the replicas, pages in use, memory of Redis.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
from redis import Redis

from loadtests.fleet.box import Fleet, running_fleet
from loadtests.fleet.replica import Replica
from loadtests.kill_matrix.__main__ import durable_plan
from loadtests.kill_matrix.client import SILENCE_S, Transcript, ask
from loadtests.kill_matrix.questions import questions

SAMPLE_EVERY_S = 10.0
KILL_EVERY_S = 45.0
LEAVING = 0.3
"""Share of the clients that hang up in the middle; half of them come back."""
REST_S = 15.0
"""After the last question, until what nobody reads any more has been given up."""
KEEPING = ("--stream-ttl-s", "60", "--resume-grace-s", "5")


@dataclass(frozen=True, slots=True)
class Sample:
    """The fleet at one moment."""

    at_s: float
    rss_mb: float
    file_handles: int
    redis_mb: float
    pages_used: int

    def line(self) -> str:
        figures = f"rss {self.rss_mb:7.0f} MB  handles {self.file_handles:5}  redis {self.redis_mb:6.1f} MB  pages {self.pages_used:5}"
        return f"{self.at_s:7.0f} s  {figures}"


@dataclass(slots=True)
class Tally:
    """What became of the streams."""

    num_complete: int = 0
    num_left: int = 0
    lost: list[str] = field(default_factory=list)
    num_kills: int = 0

    def take(self, transcript: Transcript) -> None:
        """Count one stream that was read to its end."""
        is_whole = transcript.is_complete and transcript.ids == list(range(1, len(transcript.ids) + 1))
        if is_whole:
            self.num_complete += 1
        else:
            self.lost.append(f"{transcript.name}: {len(transcript.ids)} events, {transcript.refusal or 'no end'}")


async def one_user(number: int, url: str, until_s: float, tally: Tally) -> None:
    """Ask one question after the other; sometimes leave in the middle."""
    chance = random.Random(number)
    timeout = httpx.Timeout(30.0, connect=1.0, read=SILENCE_S)
    turn = 0
    async with httpx.AsyncClient(base_url=url, timeout=timeout) as http:
        while time.monotonic() < until_s:
            turn += 1
            question = questions(f"user-{number}-{turn}", 4)[chance.randrange(4)]
            asking = asyncio.create_task(ask(http, question))
            if chance.random() < LEAVING:
                await asyncio.wait({asking}, timeout=chance.uniform(0.1, 2.0))
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                tally.num_left += 1
                if chance.random() < 0.5:
                    continue
                asking = asyncio.create_task(ask(http, question))
            tally.take(await asking)


async def killer(fleet: Fleet, until_s: float, tally: Tally, samples: list[Sample]) -> None:
    """Kill a server or an engine every now and then, start it again, and take samples in between."""
    chance = random.Random(0)
    started, next_kill = time.monotonic(), time.monotonic() + KILL_EVERY_S
    while time.monotonic() < until_s:
        await asyncio.sleep(SAMPLE_EVERY_S)
        if time.monotonic() >= next_kill:
            await asyncio.to_thread(kill_one, fleet, chance)
            tally.num_kills += 1
            next_kill = time.monotonic() + KILL_EVERY_S
        samples.append(sample(fleet, time.monotonic() - started))
        print(samples[-1].line(), f"complete {tally.num_complete}, lost {len(tally.lost)}", file=sys.stderr, flush=True)


def kill_one(fleet: Fleet, chance: random.Random) -> None:
    """Kill a server, or only its engine, and wait until it is back."""
    victim = chance.choice(fleet.replicas)
    if chance.random() < 0.5:
        victim.service.kill()
        victim.service.start()
    else:
        for pid in victim.service.children():
            os.kill(pid, signal.SIGKILL)
    fleet.wait_until_ready()


def sample(fleet: Fleet, at_s: float) -> Sample:
    """Measure the fleet."""
    pids = [pid for replica in fleet.replicas for pid in _family(replica)]
    assert fleet.redis is not None
    with Redis(port=fleet.redis.port) as redis:
        redis_mb = int(redis.info("memory")["used_memory"]) / 1e6
    return Sample(at_s, sum(map(_rss_mb, pids)), sum(map(_file_handles, pids)), redis_mb, sum(map(_pages_used, fleet.replicas)))


def _pages_used(replica: Replica) -> int:
    """Return how many pages the replica's requests hold."""
    found = re.search(r"^plait_pages_used (\S+)$", httpx.get(f"{replica.url}/metrics", timeout=10).text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def _family(replica: Replica) -> list[int]:
    return [replica.service.pid, *replica.service.children()] if replica.service.is_running else []


def _rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _file_handles(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def main() -> None:
    """Run the soak and say how it went; the exit status says whether anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.kill_matrix.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--users", type=int, default=8, help="as many as keep the fleet 90 %% busy on this machine")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the samples and the counts there too")
    options = parser.parse_args()
    tally, samples = asyncio.run(soak(options.minutes, options.users, options.model))
    print("\n".join(one.line() for one in samples))
    print(f"complete {tally.num_complete}, left {tally.num_left}, kills {tally.num_kills}, lost {len(tally.lost)}", *tally.lost, sep="\n")
    if options.json:
        written = {**asdict(tally), "samples": [asdict(one) for one in samples]}
        options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(tally.lost or samples[-1].pages_used))


async def soak(minutes: float, num_users: int, model: Path | None) -> tuple[Tally, list[Sample]]:
    """Run users and the killer side by side; the last sample is taken when nobody asks any more."""
    tally, samples = Tally(), list[Sample]()
    with (
        tempfile.TemporaryDirectory(prefix="plait-soak-") as directory,
        running_fleet(Path(directory) / "fleet", durable_plan(3, Path(directory), model, KEEPING)) as fleet,
    ):
        until_s = time.monotonic() + 60 * minutes
        users = [one_user(number, fleet.url, until_s, tally) for number in range(num_users)]
        await asyncio.gather(killer(fleet, until_s, tally, samples), *users)
        await asyncio.sleep(REST_S)
        samples.append(sample(fleet, 60 * minutes + REST_S))
    return tally, samples


if __name__ == "__main__":
    main()
