"""A fleet in a box, by hand or under load.

    python -m loadtests.fleet up --replicas 2                     until Ctrl-C
    python -m loadtests.fleet scale --replicas 1 2 3              the same load on 1, 2 and 3 replicas, by load and by prefix
    python -m loadtests.fleet rolling --replicas 2                every replica restarted under load; failed requests are counted

What follows ``--`` goes to every ``plait serve``, e.g. ``-- --model DIR --num-threads 1``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtests.fleet.box import Fleet, FleetPlan, running_fleet
from loadtests.fleet.configurations import Proxy
from loadtests.fleet.counts import Counts, hit_rate, imbalance, read_counts
from loadtests.load.levels import Ramp
from loadtests.load.machine import machine

DRAIN_S = 60.0
"""A restart under load lets the answers that run finish."""


def main() -> int:
    """Run one command; exit with 1 when a request failed."""
    own, options = _split(sys.argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.fleet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["up", "scale", "rolling"])
    parser.add_argument("--replicas", type=int, nargs="+", default=[2])
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--scenario", default="chat")
    parser.add_argument(
        "--cores-each", type=float, help="what each replica may use of the cores, e.g. 0.25 (as root); default: all of them"
    )
    parser.add_argument("--out", type=Path, help="scale and rolling: write what was found there as JSON")
    chosen = parser.parse_args(own)
    with tempfile.TemporaryDirectory(prefix="plait-fleet-") as directory:
        root = Path(directory)
        match chosen.command:
            case "up":
                return stay_up(FleetPlan(chosen.replicas[0], options, with_prometheus=True, cores_each=chosen.cores_each), root)
            case "scale":
                load = Load(chosen.scenario, chosen.users, chosen.seconds)
                fleets = itertools.product(chosen.replicas, (False, True))
                plans = [FleetPlan(number, options, Proxy(by_prefix), cores_each=chosen.cores_each) for number, by_prefix in fleets]
                rows = [scale(plan, load, root) for plan in plans]
                if chosen.out:
                    write_found({"rows": [asdict(row) for row in rows]}, load, chosen.cores_each, chosen.out)
                return 1 if any(row.failures for row in rows) else 0
            case _:
                plan = FleetPlan(chosen.replicas[0], options, cores_each=chosen.cores_each)
                load = Load(chosen.scenario, chosen.users, chosen.seconds)
                rolled = roll(plan, load, root)
                if chosen.out:
                    write_found(asdict(rolled), load, chosen.cores_each, chosen.out)
                return 1 if rolled.failures else 0


def _split(arguments: list[str]) -> tuple[list[str], tuple[str, ...]]:
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], ("--drain-s", f"{DRAIN_S:g}", *arguments[place + 1 :])


class Load:
    """Users of one scenario, as a ramp of one level in a process of its own."""

    def __init__(self, scenario: str, users: int, seconds: float) -> None:
        self.described = f"{users} users of the scenario {scenario} for {seconds:g} s"
        self._options = ["--scenario", scenario, "--users", str(users), "--seconds", str(seconds)]

    def start(self, url: str, out: Path) -> subprocess.Popen[bytes]:
        """Begin asking; the process ends by itself and leaves ``out``.json."""
        command = [sys.executable, "-m", "loadtests.load.ramp", "--url", url, "--out", str(out), *self._options]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def stay_up(plan: FleetPlan, directory: Path) -> int:
    """Run the fleet until interrupted."""
    with running_fleet(directory, plan) as box:
        print(f"API {box.url}, Prometheus {box.prometheus_url}, logs in {directory}; Ctrl-C ends it", flush=True)
        for replica in box.replicas:
            print(f"  replica {replica.number}: {replica.url}, {replica.metrics_url}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


@dataclass(frozen=True, slots=True)
class ScaleRow:
    """One fleet under the load. ``busiest``: how many times its fair share the busiest replica answered."""

    replicas: int
    by_prefix: bool
    answers_per_s: float
    first_words_p95_s: float
    prefix_hit_rate: float
    busiest: float
    failures: int

    def line(self) -> str:
        return (
            f"{self.replicas} replicas, {'by prefix' if self.by_prefix else 'by load  '}: {self.answers_per_s:5.2f} answers/s, "
            f"p95 first words {self.first_words_p95_s:.2f} s, prefix hits {100 * self.prefix_hit_rate:3.0f} %, "
            f"busiest {self.busiest:.2f} x its share, {self.failures} failed"
        )


def scale(plan: FleetPlan, load: Load, directory: Path) -> ScaleRow:
    """Measure one fleet under the load and print a line."""
    place = directory / f"scale-{plan.num_replicas}-{plan.proxy.by_prefix}"
    with running_fleet(place, plan) as box:
        before = counts_of(box)
        load.start(box.url, place / "load").wait()
        counts = [after.since(earlier) for after, earlier in zip(counts_of(box), before, strict=True)]
    level = Ramp.load(place / "load.json").levels[0]
    waited = level.worst("first words")
    row = ScaleRow(
        plan.num_replicas, plan.proxy.by_prefix, level.answers_per_s, waited, hit_rate(counts), imbalance(counts), level.failures
    )
    print(row.line(), flush=True)
    return row


def write_found(found: dict[str, object], load: Load, cores_each: float | None, out: Path) -> None:
    """Write what was found, with the load and the machine it was found on."""
    out.parent.mkdir(parents=True, exist_ok=True)
    stored = {"machine": machine(), "load": load.described, "cores_each": cores_each, **found}
    out.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def counts_of(box: Fleet) -> list[Counts]:
    """Read the totals of every replica."""
    return [read_counts(replica.metrics_url) for replica in box.replicas]


@dataclass(frozen=True, slots=True)
class Rolled:
    """What users saw while every replica was restarted again and again."""

    replicas: int
    restarts: int
    answers: int
    first_words_p95_s: float
    failures: int


def roll(plan: FleetPlan, load: Load, directory: Path) -> Rolled:
    """Restart every replica while users ask, one after the other; print what they saw."""
    out = directory / "rolling"
    with running_fleet(directory, plan) as box:
        asking = load.start(box.url, out)
        num_rounds = 0
        while asking.poll() is None:
            box.restart_all()
            num_rounds += 1
        asking.wait()
    level = Ramp.load(out.with_suffix(".json")).levels[0]
    num = plan.num_replicas
    rolled = Rolled(num, num_rounds * num, level.answers, level.worst("first words"), level.failures)
    print(
        f"{rolled.restarts} restarts of {num} replicas under load: {rolled.answers} answers, "
        f"p95 first words {rolled.first_words_p95_s:.2f} s, {rolled.failures} failed"
    )
    return rolled


if __name__ == "__main__":
    sys.exit(main())
