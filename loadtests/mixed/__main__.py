"""Measures the scheduler under mixed traffic, on real engines in one process, without HTTP.

    python -m loadtests.mixed compare        Plait against separate text and image engines, on one trace
    python -m loadtests.mixed target         is the inter-token target kept while pictures saturate the machine?
    python -m loadtests.mixed second-turn    a chat's second turn, with the prefix cache and without
    python -m loadtests.mixed all            all three

A load is a share of Plait's capacity: the sessions a second it does when a whole trace is there at once. Throughput is what was delivered
from the first arrival to the end of the last answer: at a load above what the peers' way can do, that is its own capacity.

Tables (Markdown), figures (JSON) and plots (SVG) go to loadtests/results/mixed/MACHINE. Idle time is skipped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from loadtests.comparison.compare import Plan, compare, measure_capacity
from loadtests.comparison.engines import Bench, as_served, load_bench
from loadtests.comparison.machine_name import machine_name
from loadtests.comparison.report import terms_of, write_comparison
from loadtests.mixed.report import write_second_turn, write_sweep
from loadtests.mixed.second_turn import measure_second_turn
from loadtests.mixed.target import Crowd, sweep_targets
from loadtests.progress import Progress
from loadtests.replays.replay import Watch
from loadtests.traces.arrivals import Arrivals
from loadtests.traces.mix import MIXES, Mix
from server.engine.options import EngineOptions

RESULTS = Path(__file__).parents[1] / "results" / "mixed"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    progress = Progress()
    with tempfile.TemporaryDirectory() as scratch:
        progress.say(f"loading {options.model}")
        bench = load_bench(options.model, Path(scratch), _engine_options(options), options.staged_pictures)
        machine = options.machine or machine_name(bench)
        directory = options.out or RESULTS / machine
        if options.what in ("compare", "all"):
            _compare(bench, options, directory, progress)
        if options.what in ("target", "all"):
            crowd = Crowd(4, 4, options.side, 33, options.seconds)
            write_sweep(directory, sweep_targets(bench, crowd, tuple(options.targets), options.rounds, progress.say), machine)
        if options.what in ("second-turn", "all"):
            turns = [measure_second_turn(bench, options.side, options.chats, has_prefix_cache=is_on) for is_on in (False, True)]
            write_second_turn(directory, turns, machine)
    progress.say(f"results are in {directory}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.mixed", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["compare", "target", "second-turn", "all"], help="what to measure")
    parser.add_argument("--model", default="mid", help="a model directory, or a random one: tiny, mid, bagel-7b (default: %(default)s)")
    parser.add_argument("--mix", default="mid", help=f"the traffic: {', '.join(MIXES)} (default: %(default)s)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of the forward pass (default: all cores)")
    parser.add_argument("--pages", type=int, default=4096, help="pages of each engine (default: %(default)s)")
    parser.add_argument("--inter-token-ms", type=float, default=None, help="Plait's inter-token target (default: the server's)")
    parser.add_argument("--out", type=Path, default=None, help="directory of the results (default: by the machine)")
    parser.add_argument("--machine", default=None, help="what to call this machine (default: its cores and processor, or its GPU)")
    replayed = parser.add_argument_group("compare")
    replayed.add_argument("--load", type=float, action="append", help="share of Plait's capacity; may be repeated (default: 0.8 and 0.1)")
    replayed.add_argument("--arrivals", default="poisson", choices=[arrivals.value for arrivals in Arrivals])
    replayed.add_argument("--sessions", type=int, default=20, help="sessions of a trace (default: %(default)s)")
    replayed.add_argument("--rounds", type=int, default=2, help="traces for each load; target: runs of each (default: %(default)s)")
    replayed.add_argument("--seed", type=int, default=1)
    replayed.add_argument("--staged-pictures", type=int, default=1, help="equal pictures the image engine may draw at once")
    crowd = parser.add_argument_group("target, second-turn")
    crowd.add_argument("--targets", type=float, nargs="+", default=[2, 3, 4, 6, 8, 10], help="in decode steps (default: 2 3 4 6 8 10)")
    crowd.add_argument("--seconds", type=float, default=10.0, help="length of each target's run (default: %(default)s)")
    crowd.add_argument("--side", type=int, default=256, help="side of the pictures in pixels (default: %(default)s)")
    crowd.add_argument("--chats", type=int, default=5, help="chats for the second turn (default: %(default)s)")
    return parser


def _engine_options(options: argparse.Namespace) -> EngineOptions:
    return replace(
        as_served(options.inter_token_ms),
        device=options.device,
        dtype=options.dtype,
        num_threads=options.threads,
        num_pages=options.pages,
    )


def _compare(bench: Bench, options: argparse.Namespace, directory: Path, progress: Progress) -> None:
    plan = Plan(
        Mix.named(options.mix),
        Arrivals(options.arrivals),
        tuple(options.load or (0.8, 0.1)),
        options.sessions,
        options.rounds,
        options.seed,
    )

    def say(part: str) -> Watch:
        progress.say(part)
        return lambda now_s, num_done, num_all: progress.watch(part, num_done, num_all)

    capacity = measure_capacity(bench, plan, say)
    comparison = compare(bench, bench.replica(capacity.costs).alone, plan, capacity, say)
    terms = terms_of(bench.options, options.staged_pictures)
    write_comparison(directory, comparison, plan, options.machine or machine_name(bench), terms)


if __name__ == "__main__":
    sys.exit(main())
