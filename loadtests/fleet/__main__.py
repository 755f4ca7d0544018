"""A fleet in a box, by hand or under load.

    python -m loadtests.fleet up --replicas 2                     until Ctrl-C
    python -m loadtests.fleet scale --replicas 1 2 3              the same load on 1, 2 and 3 replicas, by load and by prefix
    python -m loadtests.fleet rolling --replicas 2                every replica restarted under load; failed requests are counted

What follows ``--`` goes to every ``plait serve``, e.g. ``-- --model DIR --num-threads 1``.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from loadtests.fleet.box import Box, BoxPlan, fleet
from loadtests.fleet.counts import Counts, hit_rate, imbalance, read_counts
from loadtests.load.levels import Ramp


def main() -> int:
    """Run one command; exit with 1 when a request failed."""
    own, _, options = _split(sys.argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.fleet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["up", "scale", "rolling"])
    parser.add_argument("--replicas", type=int, nargs="+", default=[2])
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--scenario", default="chat")
    chosen = parser.parse_args(own)
    with tempfile.TemporaryDirectory(prefix="plait-fleet-") as directory:
        root = Path(directory)
        match chosen.command:
            case "up":
                return stay_up(BoxPlan(chosen.replicas[0], with_prometheus=True, options=options), root)
            case "scale":
                load = Load(chosen.scenario, chosen.users, chosen.seconds)
                return max(scale(BoxPlan(number, by, options=options), load, root) for number in chosen.replicas for by in (False, True))
            case _:
                return roll(BoxPlan(chosen.replicas[0], options=options), Load(chosen.scenario, chosen.users, chosen.seconds), root)


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], "--", arguments[place + 1 :]


class Load:
    """Users of one scenario, as a ramp of one level in a process of its own."""

    def __init__(self, scenario: str, users: int, seconds: float) -> None:
        self._options = ["--scenario", scenario, "--users", str(users), "--seconds", str(seconds)]

    def start(self, url: str, out: Path) -> subprocess.Popen[bytes]:
        """Begin asking; the process ends by itself and leaves ``out``.json."""
        command = [sys.executable, "-m", "loadtests.ramp", "--url", url, "--out", str(out), *self._options]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def stay_up(plan: BoxPlan, directory: Path) -> int:
    """Run the fleet until interrupted."""
    with fleet(plan, directory) as box:
        print(f"API {box.url}, Prometheus {box.prometheus_url}, logs in {directory}; Ctrl-C ends it", flush=True)
        for replica in box.replicas:
            print(f"  replica {replica.number}: http://{replica.address}, {replica.metrics_url}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


def scale(plan: BoxPlan, load: Load, directory: Path) -> int:
    """Measure one fleet under the load and print a line; return 1 when a request failed."""
    out = directory / f"scale-{plan.num_replicas}-{plan.by_prefix}"
    with fleet(plan, directory) as box:
        before = counts_of(box)
        load.start(box.url, out).wait()
        counts = [after.since(earlier) for after, earlier in zip(counts_of(box), before, strict=True)]
    level = Ramp.load(out.with_suffix(".json")).levels[0]
    print(
        f"{plan.num_replicas} replicas, {'by prefix' if plan.by_prefix else 'by load  '}: {level.answers_per_s:5.2f} answers/s, "
        f"p95 first words {level.worst('first words'):.2f} s, prefix hits {100 * hit_rate(counts):3.0f} %, "
        f"busiest {imbalance(counts):.2f} x its share, {level.failures} failed",
        flush=True,
    )
    return 1 if level.failures else 0


def counts_of(box: Box) -> list[Counts]:
    """Read the totals of every replica."""
    return [read_counts(replica.metrics_url) for replica in box.replicas]


def roll(plan: BoxPlan, load: Load, directory: Path) -> int:
    """Restart every replica while users ask; print what they saw; return 1 when a request failed."""
    out = directory / "rolling"
    with fleet(plan, directory) as box:
        asking = load.start(box.url, out)
        num_rounds = 0
        while asking.poll() is None:
            box.restart_all()
            num_rounds += 1
        asking.wait()
    level = Ramp.load(out.with_suffix(".json")).levels[0]
    num_restarts = num_rounds * plan.num_replicas
    print(f"{num_restarts} restarts of {plan.num_replicas} replicas under load: {level.answers} answers, {level.failures} failed")
    return 1 if level.failures else 0


if __name__ == "__main__":
    sys.exit(main())
