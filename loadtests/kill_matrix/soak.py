"""``python -m loadtests.kill_matrix.soak``: a fleet under load with clients that leave and servers that die; nothing may be lost or grow.

The first half minute finds out how much the machine can do; from then on the users ask for a share of that. The first server is never
killed, so that its memory tells of the whole time. Every few minutes everybody pauses, and a sample is taken at rest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from loadtests.fleet.box import Fleet, running_fleet
from loadtests.kill_matrix.client import SILENCE_S, Transcript, ask
from loadtests.kill_matrix.durable_fleet import durable_plan
from loadtests.kill_matrix.questions import questions
from loadtests.kill_matrix.samples import Sample, pages_used, sample

CALIBRATION_S = 30.0
SAMPLE_EVERY_S = 15.0
KILL_EVERY_S = 45.0
REST_EVERY_S = 180.0
LEAVING = 0.3
"""Share of the clients that hang up in the middle; half of them come back."""
REST_S = 10.0
"""From the last answer, or until no page is held any more: what nobody reads is given up within that."""
LONGEST_REST_S = 60.0
KEEPING = ("--stream-ttl-s", "60", "--resume-grace-s", "5")


@dataclass(slots=True)
class Tally:
    """What became of the streams. ``capacity_per_s``: questions a second when nobody held back."""

    num_complete: int = 0
    num_left: int = 0
    lost: list[str] = field(default_factory=list)
    num_kills: int = 0
    capacity_per_s: float = 0.0

    @property
    def num_asked(self) -> int:
        return self.num_complete + self.num_left + len(self.lost)

    def take(self, transcript: Transcript) -> None:
        """Count one stream that was read to its end."""
        is_whole = transcript.is_complete and transcript.ids == list(range(1, len(transcript.ids) + 1))
        if is_whole:
            self.num_complete += 1
        else:
            self.lost.append(f"{transcript.name}: {len(transcript.ids)} events, {transcript.refusal or 'no end'}")


class Pace:
    """When users may ask: not while everybody rests, and no more often than every ``interval_s`` each."""

    def __init__(self) -> None:
        self.interval_s = 0.0
        self.num_asking = 0
        self._open = asyncio.Event()
        self._open.set()

    async def turn(self, last_s: float) -> None:
        """Wait for the turn of a user who asked last at ``last_s``."""
        await asyncio.sleep(last_s + self.interval_s - time.monotonic())
        await self._open.wait()

    async def rest(self, fleet: Fleet) -> None:
        """Let nobody ask until `resume`, and wait until nothing is under way."""
        self._open.clear()
        deadline = time.monotonic() + LONGEST_REST_S
        while self.num_asking and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        await asyncio.sleep(REST_S)
        while await asyncio.to_thread(pages_used, fleet) and time.monotonic() < deadline:
            await asyncio.sleep(0.5)

    def resume(self) -> None:
        """Let everybody ask again."""
        self._open.set()


async def one_user(number: int, url: str, until_s: float, pace: Pace, tally: Tally) -> None:
    """Ask one question after the other; sometimes leave in the middle."""
    chance = random.Random(number)
    timeout = httpx.Timeout(30.0, connect=1.0, read=SILENCE_S)
    num_asked, asked_s = 0, time.monotonic()
    async with httpx.AsyncClient(base_url=url, timeout=timeout) as http:
        while time.monotonic() < until_s:
            await pace.turn(asked_s)
            num_asked, asked_s = num_asked + 1, time.monotonic()
            pace.num_asking += 1
            await _ask_once(http, f"user-{number}-{num_asked}", chance, tally)
            pace.num_asking -= 1


async def _ask_once(http: httpx.AsyncClient, key: str, chance: random.Random, tally: Tally) -> None:
    question = questions(key, 4)[chance.randrange(4)]
    asking = asyncio.create_task(ask(http, question))
    if chance.random() < LEAVING:
        await asyncio.wait({asking}, timeout=chance.uniform(0.1, 2.0))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        tally.num_left += 1
        if chance.random() < 0.5:
            return
        asking = asyncio.create_task(ask(http, question))
    tally.take(await asking)


class Watch:
    """Finds out what the machine can do, then kills, rests and samples."""

    def __init__(self, fleet: Fleet, pace: Pace, tally: Tally) -> None:
        self._fleet = fleet
        self._pace = pace
        self._tally = tally
        self._started_s = time.monotonic()
        self._chance = random.Random(0)
        self.samples: list[Sample] = []

    async def calibrate(self, num_users: int, load: float) -> None:
        """Let the users do what they can for a while, then ask for ``load`` of that."""
        await asyncio.sleep(CALIBRATION_S)
        self._tally.capacity_per_s = self._tally.num_asked / CALIBRATION_S
        self._pace.interval_s = num_users / (load * max(self._tally.capacity_per_s, 0.1))

    async def run(self, until_s: float) -> None:
        """Kill a server or an engine every now and then and start it again; take samples in between."""
        next_kill_s = time.monotonic() + KILL_EVERY_S
        next_rest_s = time.monotonic()
        while time.monotonic() < until_s:
            if time.monotonic() >= next_rest_s:
                await self.sample_at_rest()
                next_rest_s = time.monotonic() + REST_EVERY_S
            if time.monotonic() >= next_kill_s:
                await asyncio.to_thread(kill_one, self._fleet, self._chance)
                self._tally.num_kills += 1
                next_kill_s = time.monotonic() + KILL_EVERY_S
            await asyncio.sleep(SAMPLE_EVERY_S)
            await self._sample(is_at_rest=False)

    async def sample_at_rest(self) -> None:
        """Let everybody pause, and measure."""
        await self._pace.rest(self._fleet)
        await self._sample(is_at_rest=True)
        self._pace.resume()

    async def _sample(self, *, is_at_rest: bool) -> None:
        taken = await asyncio.to_thread(sample, self._fleet, time.monotonic() - self._started_s, is_at_rest=is_at_rest)
        self.samples.append(taken)
        print(taken.line(), f"complete {self._tally.num_complete}, lost {len(self._tally.lost)}", file=sys.stderr, flush=True)


def kill_one(fleet: Fleet, chance: random.Random) -> None:
    """Kill a server other than the first, or only its engine, and wait until it is back."""
    victim = chance.choice(fleet.replicas[1:])
    if chance.random() < 0.5:
        victim.service.kill()
        victim.service.start()
    else:
        for pid in victim.service.children():
            os.kill(pid, signal.SIGKILL)
    fleet.wait_until_ready()


async def soak(minutes: float, num_users: int, load: float, model: Path | None) -> tuple[Tally, list[Sample]]:
    """Run users and the killer side by side; the last sample is taken when nobody asks any more."""
    tally = Tally()
    with (
        tempfile.TemporaryDirectory(prefix="plait-soak-") as directory,
        running_fleet(Path(directory), durable_plan(3, model, KEEPING)) as fleet,
    ):
        pace = Pace()
        watch = Watch(fleet, pace, tally)
        until_s = time.monotonic() + CALIBRATION_S + 60 * minutes
        async with asyncio.TaskGroup() as tasks:
            for number in range(num_users):
                tasks.create_task(one_user(number, fleet.url, until_s, pace, tally))
            await watch.calibrate(num_users, load)
            await watch.run(until_s)
        await watch.sample_at_rest()
    return tally, watch.samples


def resting(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples that can be compared with each other."""
    return [one for one in samples if one.is_at_rest]


def main() -> None:
    """Run the soak and say how it went; the exit status says whether anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.kill_matrix.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--users", type=int, default=12, help="enough to keep the fleet busy when none of them waits")
    parser.add_argument("--load", type=float, default=0.9, help="share of what the fleet can do that is asked for")
    parser.add_argument("--model", type=Path, help="model directory; default: storybook")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the samples and the counts there too")
    options = parser.parse_args()
    tally, samples = asyncio.run(soak(options.minutes, options.users, options.load, options.model))
    print("\n".join(one.line() for one in resting(samples)))
    print(f"capacity {tally.capacity_per_s:.1f}/s, complete {tally.num_complete}, left {tally.num_left}, kills {tally.num_kills}")
    print(f"lost {len(tally.lost)}", *tally.lost, sep="\n")
    if options.json:
        written = {**asdict(tally), "samples": [asdict(one) for one in samples]}
        options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(tally.lost or samples[-1].pages_used))


if __name__ == "__main__":
    main()
