"""What becomes of a server that is asked for five times what it can do: ``python -m loadtests.overload [--json FILE]``.

Starts ``plait serve`` and sends it short chats and pictures in three stretches: as many as it can do (which is measured first), five times
as many, and as many again. Every request says how long it waits (``X-Request-Timeout``). Printed are the goodput (answers complete in
time, a second) of each stretch, how many accepted requests broke their promise, whether what was refused was told the right time to come
back, and how soon after the flood a new request is answered as before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import uvloop

from loadtests.fleet.replica import served
from loadtests.overload.flood import Flood, Outcome, Record, measure_capacity
from loadtests.overload.processors import ProcessorWatch
from loadtests.overload.verdict import Stretch, Verdict, judge
from loadtests.progress import Progress

FLOOD_FACTOR = 5.0
NUM_PLACES = 16
"""Requests that the server works on at once."""


def main() -> None:
    options = _options()
    model = ["--model", options.model] if options.model else []
    bounds = ["--max-waiting", str(options.max_waiting), "--max-running", str(NUM_PLACES)]
    with served(*model, *bounds) as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        verdict = runner.run(run(server.url, options))
    print(verdict.table())
    if options.json:
        Path(options.json).write_text(json.dumps(asdict(verdict), indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if verdict.holds else 1)


async def run(url: str, options: argparse.Namespace) -> Verdict:
    """Measure capacity, then the three stretches."""
    progress = Progress()
    async with Flood.of_server(url, options.deadline_s, options.seed) as flood:
        capacity = await measure_capacity(flood, options.calibrate_s)
        progress.say(f"capacity: {capacity:.2f} requests a second")
        calm = await _stretch(flood, capacity, options.calm_s)
        progress.say(f"at 1 x: {_summary(calm)}")
        storm = await _stretch(flood, FLOOD_FACTOR * capacity, options.storm_s)
        progress.say(f"at {FLOOD_FACTOR:g} x: {_summary(storm)}")
        recovery_s = await flood.recovery_s(typical_s=_typical_s(calm.records))
        progress.say(f"answered as before {recovery_s:.1f} s after the flood")
    return judge(calm, storm, capacity, NUM_PLACES, recovery_s)


async def _stretch(flood: Flood, per_second: float, seconds: float) -> Stretch:
    watch = ProcessorWatch.of_this_process()
    sending = asyncio.create_task(flood.send(per_second, seconds))
    await asyncio.sleep(seconds)
    use = watch.use()
    return Stretch(await sending, seconds, use)


def _typical_s(calm: Sequence[Record]) -> float:
    return statistics.median(record.seconds for record in calm if record.outcome is Outcome.DONE)


def _summary(stretch: Stretch) -> str:
    counts = {outcome.value: sum(record.outcome is outcome for record in stretch.records) for outcome in Outcome}
    outcomes = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    return f"{outcomes}; processors busy: {stretch.processors.line()}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model directory; default: storybook")
    parser.add_argument("--calibrate-s", type=float, default=15.0, help="seconds that capacity is measured (default: 15)")
    parser.add_argument("--calm-s", type=float, default=30.0, help="seconds at capacity (default: 30)")
    parser.add_argument("--storm-s", type=float, default=120.0, help="seconds at five times that (default: 120)")
    parser.add_argument("--deadline-s", type=float, default=20.0, help="seconds each request waits for its answer (default: 20)")
    parser.add_argument("--max-waiting", type=int, default=64, help="requests that the server lets wait (default: 64)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
