"""Plans past the machines at hand: a discrete-event simulation with step costs measured by `loadtests.mixed compare`.

    python -m loadtests.simulate plan --sessions-per-s 20      fleets of growing size under one hour of traffic, and the knee
    python -m loadtests.simulate scale --load 0.7              1 to 10,000 replicas under the same load each
    python -m loadtests.simulate compare --sessions 500        what `loadtests.mixed compare` does, in virtual time
    python -m loadtests.simulate bound --sessions 500          how many times as much as the peers' way Plait can do at most
    python -m loadtests.simulate validate                      the real engine against the simulation, one replica

Tables (Markdown), figures (JSON) and plots (SVG) go to loadtests/results/simulate/MACHINE.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from loadtests.comparison.compare import Plan, Say, compare, measure_capacity
from loadtests.comparison.engines import as_served, load_bench
from loadtests.comparison.machine_name import machine_name
from loadtests.comparison.report import terms_of, write_comparison
from loadtests.progress import Progress
from loadtests.replays.replay import Watch
from loadtests.simulate.bound import bound
from loadtests.simulate.fleet import Watch as FleetWatch
from loadtests.simulate.plan import Machine, Planner, Traffic, fleet_sizes, try_fleets
from loadtests.simulate.report import write_bounds, write_plan, write_validation
from loadtests.simulate.validate import validate
from loadtests.traces.arrivals import Arrivals
from loadtests.traces.mix import MIXES, Mix
from loadtests.virtual.costs import Costs, read_costs
from loadtests.virtual.replica import Replica
from model.config import BagelConfig

RESULTS = Path(__file__).parents[1] / "results"
DEFAULT_LOAD = 0.7
SCALES = (1, 10, 100, 1000, 10_000)
SCALE_SECONDS = {10_000: 360.0}
"""The largest fleets are watched for a few minutes, not an hour: they see as many sessions."""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    progress = Progress()
    if options.what == "validate":
        return _validate(options, progress)
    if options.what == "compare":
        _compare(options, progress)
    elif options.what == "bound":
        _bound(options)
    else:
        _fleets(options, progress)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.simulate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["plan", "scale", "compare", "bound", "validate"], help="what to simulate")
    parser.add_argument("--model", default="mid", help="tiny, mid or bagel-7b; validate takes a directory too")
    parser.add_argument("--mix", default=None, help=f"the traffic: {', '.join(MIXES)} (default: the model's; bound: all of the model's)")
    parser.add_argument("--costs", type=Path, default=None, help="costs.json of a measured machine (default: the only one in the results)")
    parser.add_argument("--pages", type=int, default=4096, help="pages of a replica (default: %(default)s)")
    parser.add_argument("--inter-token-ms", type=float, default=None, help="inter-token target (default: the server's)")
    parser.add_argument("--arrivals", default=None, choices=[arrivals.value for arrivals in Arrivals])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--load", type=float, action="append", help="all but plan: share of the capacity; compare and validate take several (default: 0.7)"
    )
    parser.add_argument("--out", type=Path, default=None, help="directory of the results (default: by the machine)")
    fleets = parser.add_argument_group("plan, scale")
    fleets.add_argument("--sessions-per-s", type=float, default=10.0, help="plan: sessions a second on average (default: %(default)s)")
    fleets.add_argument("--minutes", type=float, default=60.0, help="how much traffic (default: %(default)s)")
    fleets.add_argument("--replicas", type=int, nargs="+", default=None, help="fleet sizes (default: around the need; 1 to 10,000)")
    fleets.add_argument("--price", type=float, default=1.0, help="price of a replica for an hour, in any currency (default: %(default)s)")
    one = parser.add_argument_group("compare, bound, validate")
    one.add_argument("--sessions", type=int, default=20, help="sessions of a trace (default: %(default)s)")
    one.add_argument("--rounds", type=int, default=2, help="traces (default: %(default)s)")
    one.add_argument("--staged-pictures", type=int, default=1, help="compare: equal pictures the peers' image engine may draw at once")
    one.add_argument("--threads", type=int, default=None, help="validate: CPU threads of the forward pass (default: all cores)")
    return parser


def _load(options: argparse.Namespace) -> float:
    """Return the load of a command that takes one."""
    loads: list[float] = options.load or [DEFAULT_LOAD]
    if len(loads) > 1:
        raise SystemExit(f"{options.what} takes one --load, not {len(loads)}")
    return loads[0]


def _mix(options: argparse.Namespace) -> Mix:
    return Mix.named(options.mix or options.model)


def _costs(options: argparse.Namespace) -> tuple[Costs, str]:
    """Return the costs asked for and the name of their machine."""
    found = [options.costs] if options.costs else sorted((RESULTS / "mixed").glob("*/costs.json"))
    if len(found) != 1:
        raise SystemExit(f"{len(found)} files costs.json in {RESULTS / 'mixed'}: say which with --costs, or measure with loadtests.mixed")
    return read_costs(found[0]), found[0].parent.name


def _fleets(options: argparse.Namespace, progress: Progress) -> None:
    costs, name = _costs(options)
    engine = as_served(options.inter_token_ms)
    target_s = engine.inter_token_target_s or math.inf
    cache_rows = engine.page_size * options.pages
    machine = Machine(BagelConfig.named(options.model), costs, cache_rows, target_s, engine.min_target_decodes)
    mix, arrivals = _mix(options), Arrivals(options.arrivals or Arrivals.DIURNAL.value)
    planner = Planner(machine, mix, options.seed)
    is_plan = options.what == "plan"
    seconds = options.minutes * 60

    def traffic(size: int) -> Traffic:
        if is_plan:
            return Traffic(mix, arrivals, options.sessions_per_s, seconds, options.seed)
        rate = _load(options) * size / planner.seconds_per_session
        return Traffic(mix, arrivals, rate, min(seconds, SCALE_SECONDS.get(size, seconds)), options.seed)

    sizes = options.replicas or (fleet_sizes(options.sessions_per_s * planner.seconds_per_session) if is_plan else list(SCALES))
    title = f"{options.model} on {name}, {arrivals.value} arrivals, " + (
        f"{options.sessions_per_s:g} sessions a second for {options.minutes:g} minutes" if is_plan else f"{_load(options):.0%} load"
    )

    def say(part: str) -> FleetWatch:
        progress.say(part)
        return lambda num_done, num_all: progress.watch(part, num_done, num_all)

    fared = try_fleets(planner, [(size, traffic(size)) for size in sizes], options.price, say)
    print(write_plan(options.out or RESULTS / "simulate" / name, options.what, title, fared, has_knee=is_plan))


def _plan(options: argparse.Namespace) -> Plan:
    arrivals = Arrivals(options.arrivals or Arrivals.POISSON.value)
    return Plan(_mix(options), arrivals, tuple(options.load or (DEFAULT_LOAD,)), options.sessions, options.rounds, options.seed)


def _announcer(progress: Progress) -> Say:
    def say(part: str) -> Watch:
        progress.say(part)
        return lambda now_s, num_done, num_all: progress.watch(f"{part}, {now_s:.0f} s", num_done, num_all)

    return say


def _replica(options: argparse.Namespace, costs: Costs) -> Replica:
    engine = as_served(options.inter_token_ms)
    config = BagelConfig.named(options.model)
    return Replica(config, costs, options.pages, engine.page_size, engine.limits, options.staged_pictures)


def _bound(options: argparse.Namespace) -> None:
    costs, name = _costs(options)
    replica, plan = _replica(options, costs), _plan(options)
    mixes = [options.mix] if options.mix else Mix.names_for(options.model)
    found = {mix: bound(replica, replace(plan, mix=Mix.named(mix))) for mix in mixes}
    print(write_bounds(options.out or RESULTS / "simulate" / name, found, _load(options), name))


def _compare(options: argparse.Namespace, progress: Progress) -> None:
    costs, name = _costs(options)
    replica = _replica(options, costs)
    say = _announcer(progress)
    plan = _plan(options)
    capacity = replace(measure_capacity(replica, plan, say), costs=costs)
    directory = options.out or RESULTS / "simulate" / name
    terms = terms_of(as_served(options.inter_token_ms), options.staged_pictures)
    write_comparison(directory, compare(replica, replica.alone, plan, capacity, say), plan, f"{name}, in virtual time", terms)
    print((directory / "compare.md").read_text())


def _validate(options: argparse.Namespace, progress: Progress) -> int:
    """Return 0 if the simulation is as close to the engine as it should be, 1 if not."""
    engine = replace(as_served(options.inter_token_ms), num_pages=options.pages, num_threads=options.threads)
    plan = _plan(options)
    traces = f"{options.mix or options.model}, {plan.num_rounds} traces of {plan.num_sessions} sessions for each load, seed {plan.seed}"
    with tempfile.TemporaryDirectory() as scratch:
        bench = load_bench(options.model, Path(scratch), engine)
        name = machine_name(bench)
        validation = validate(bench, plan, _announcer(progress))
    print(write_validation(options.out or RESULTS / "simulate" / name, validation, name, traces))
    return 0 if validation.holds else 1


if __name__ == "__main__":
    sys.exit(main())
