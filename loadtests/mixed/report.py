"""Writes what was found: tables in Markdown, every figure in JSON, distributions as SVG."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from loadtests.charts import Panel, Series, distribution, write_chart
from loadtests.mixed.compare import Comparison, Outcome, Plan
from loadtests.mixed.late import ELSEWHERE
from loadtests.mixed.measures import first_picture_waits, first_token_waits, word_gaps
from loadtests.mixed.metered import Doing
from loadtests.mixed.second_turn import SecondTurn
from loadtests.mixed.stand import Way
from loadtests.mixed.target import LATE, Kept
from loadtests.simulate.costs import write_costs
from loadtests.traces.sessions import write_trace
from server.engine.options import EngineOptions

CAUSES = (*(doing.value for doing in Doing), ELSEWHERE)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: a measure, its unit and factor."""

    name: str
    field: str
    unit: str

    @property
    def factor(self) -> float:
        return 1000.0 if self.unit == "ms" else 1.0


LINES = (
    Line("throughput, words and latents", "weighted_per_s", "/s"),
    Line("words", "tokens_per_s", "/s"),
    Line("pictures", "pictures_per_s", "/s"),
    Line("time to first token, mean", "first_token_mean_s", "ms"),
    Line("time to first token, p99", "first_token_p99_s", "ms"),
    Line("between words, p50", "gap_p50_s", "ms"),
    Line("between words, p99", "gap_p99_s", "ms"),
    Line("time to first picture, mean", "first_picture_mean_s", "ms"),
    Line("time to first picture, p99", "first_picture_p99_s", "ms"),
)


def terms_of(options: EngineOptions, staged_pictures: int) -> str:
    """Say what the two ways were given."""
    assert options.inter_token_target_s is not None, "served engines have a target"
    goal = f"{options.inter_token_target_s * 1000:g} ms, or {options.min_target_decodes:g} decode steps if that is longer"
    return f"Plait's inter-token target is {goal}; the image engine of `staged` draws up to {staged_pictures} equal pictures at once."


def comparison_table(comparison: Comparison, plan: Plan, machine: str, terms: str) -> str:
    """Return the page of a comparison; ``terms`` is what else the reader must know."""
    capacity = comparison.capacity
    text = [
        f"# Plait against staged engines: {machine}",
        "",
        f"{plan.arrivals.value} arrivals, {plan.num_rounds} traces of {plan.num_sessions} sessions for each load, seed {plan.seed}."
        f" With everybody there at once Plait serves {capacity.sessions_per_s:.3f} sessions a second, `staged`"
        f" {capacity.staged_sessions_per_s:.3f}: {capacity.sessions_per_s / capacity.staged_sessions_per_s:.2f} times as many."
        " Loads are shares of the former."
        f" {terms}",
        f" Median error of the engine's cost model over the heaviest load: {comparison.cost_error:.1%}.",
    ]
    for load in plan.loads:
        plait, staged = (next(one for one in comparison.outcomes if (one.way, one.load) == (way, load)) for way in Way)
        text += ["", f"## {load:.0%} load", "", "| | plait | staged | plait / staged |", "|---|---:|---:|---:|", *_rows(plait, staged)]
    return "\n".join(text) + "\n"


def _rows(plait: Outcome, staged: Outcome) -> list[str]:
    rows = []
    mine, theirs = asdict(plait.measures), asdict(staged.measures)
    for line in LINES:
        a, b = mine[line.field], theirs[line.field]
        rows.append(
            f"| {line.name} ({line.unit}) | {_show(a * line.factor)} | {_show(b * line.factor)} | {_show(a / b if b else math.nan)} |"
        )
    for name, field in (("lane", "slowdown_by_lane"), ("tenant", "slowdown_by_tenant")):
        for key, value in mine[field].items():
            other = theirs[field][key]
            rows.append(f"| slowdown, {name} {key} | {_show(value)} | {_show(other)} | {_show(value / other)} |")
    rows.append(f"| fairness between tenants (Jain) | {_show(mine['fairness'])} | {_show(theirs['fairness'])} | |")
    rows.append(f"| requests, failed | {mine['num_requests']}, {mine['num_failed']} | {theirs['num_requests']}, {theirs['num_failed']} | |")
    return rows


def _show(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def write_comparison(directory: Path, comparison: Comparison, plan: Plan, machine: str, terms: str) -> None:
    """Write the page, the figures, the costs, the traces and the plots of a comparison; ``terms`` is what else to know."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "compare.md").write_text(comparison_table(comparison, plan, machine, terms))
    figures = {
        "machine": machine,
        "capacity_sessions_per_s": {
            "plait": comparison.capacity.sessions_per_s,
            "staged": comparison.capacity.staged_sessions_per_s,
        },
        "cost_model_error": comparison.cost_error,
        "outcomes": [
            {"way": outcome.way.value, "load": outcome.load, "measures": asdict(outcome.measures)} for outcome in comparison.outcomes
        ],
    }
    _write_json(directory / "compare.json", figures)
    write_costs(directory / "costs.json", comparison.capacity.costs)
    for trace in comparison.traces:
        write_trace(directory / f"trace-{trace.seed}-{trace.horizon_s:.0f}s.jsonl", trace)
    for load in plan.loads:
        outcomes = [outcome for outcome in comparison.outcomes if outcome.load == load]
        write_chart(directory / f"load-{load * 100:.0f}.svg", f"{machine}, {load:.0%} load", _distributions(outcomes))


def _distributions(outcomes: list[Outcome]) -> list[Panel]:
    records = {outcome.way.value: [record for replayed in outcome.replays for record in replayed.records] for outcome in outcomes}
    kinds = (("between words", word_gaps), ("time to first token", first_token_waits), ("time to first picture", first_picture_waits))
    return [
        Panel(title, "seconds", "share of all", [distribution(way, waits(listed)) for way, listed in records.items()], True, 1.0)
        for title, waits in kinds
    ]


def write_sweep(directory: Path, sweep: list[Kept], machine: str) -> None:
    """Write the table, the figures and the plot of a sweep of targets."""
    directory.mkdir(parents=True, exist_ok=True)
    text = [
        f"# The inter-token target, with pictures saturating the machine: {machine}",
        "",
        "| target (decode steps) | target (ms) | between words p50 (ms) | p95 (ms) | p99 (ms) | p99 / target |"
        " Euler steps/s, without a target | loss | words by themselves | loss for the same words |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_sweep_row(kept) for kept in sweep),
        "",
        "Loss: against the same load without a target, where a word comes with every pass of all pictures. Words by themselves: words a"
        " second of each chat x a decode step alone, what they would take of the machine one after the other with the pictures."
        " Loss for the same words:"
        " against a server that writes as many words in the same time with no picture under way and draws in the time that is left.",
        "",
        "A machine drifts; before and after each target it was measured without one:",
        "",
        "| target (decode steps) | decode step alone (ms) | words p99, chats alone (ms) | Euler steps/s | words p50 in the crowd (ms) |",
        "|---:|---:|---:|---:|---:|",
        *(_drift_row(kept) for kept in sweep),
        "",
        f"Decode steps whose words came more than {LATE:g} targets after those before, by what took longer than usual in between:",
        "",
        f"| target (decode steps) | late, of all | {' | '.join(CAUSES)} |",
        f"|---:|---:|{'---:|' * len(CAUSES)}",
        *(_late_row(kept) for kept in sweep),
    ]
    (directory / "target.md").write_text("\n".join(text) + "\n")
    _write_json(directory / "target.json", [asdict(kept) for kept in sweep])
    ratios = [(kept.multiple, kept.p99_over_target) for kept in sweep]
    losses = [(kept.multiple, kept.loss) for kept in sweep]
    words = [(kept.multiple, kept.words_share) for kept in sweep]
    for_words = [(kept.multiple, kept.loss_for_the_same_words) for kept in sweep]
    lost = [Series("loss", losses), Series("words by themselves", words), Series("for the same words", for_words)]
    panels = [
        Panel("p99 over target", "target in decode steps", "ratio", [Series("p99 / target", ratios)]),
        Panel("lost pace", "target in decode steps", "share", lost),
    ]
    write_chart(directory / "target.svg", machine, panels)


def _sweep_row(kept: Kept) -> str:
    gaps = " | ".join(f"{seconds * 1000:.1f}" for seconds in (kept.gap_p50_s, kept.gap_p95_s, kept.gap_p99_s))
    return (
        f"| {kept.multiple:g} | {kept.target_s * 1000:.1f} | {gaps} | {kept.p99_over_target:.2f} |"
        f" {kept.euler_steps_per_s:.2f}, {kept.free_steps_per_s:.2f} | {kept.loss:.1%} | {kept.words_share:.1%} |"
        f" {kept.loss_for_the_same_words:.1%} |"
    )


def _drift_row(kept: Kept) -> str:
    pairs = (
        f"{before:.2f}, {after:.2f}"
        for before, after in (
            (kept.before.decode_s * 1000, kept.after.decode_s * 1000),
            (kept.before.gap_p99_s * 1000, kept.after.gap_p99_s * 1000),
            (kept.before.euler_steps_per_s, kept.after.euler_steps_per_s),
            (kept.before.crowd_gap_p50_s * 1000, kept.after.crowd_gap_p50_s * 1000),
        )
    )
    return f"| {kept.multiple:g} | {' | '.join(pairs)} |"


def _late_row(kept: Kept) -> str:
    counts = " | ".join(str(kept.late_by_cause.get(cause, 0)) for cause in CAUSES)
    return f"| {kept.multiple:g} | {sum(kept.late_by_cause.values())} of {kept.num_steps} | {counts} |"


def write_second_turn(directory: Path, turns: list[SecondTurn], machine: str) -> None:
    """Write the table and the figures of the second turn with and without the prefix cache."""
    directory.mkdir(parents=True, exist_ok=True)
    without, cached = sorted(turns, key=lambda turn: turn.has_prefix_cache)
    text = [
        f"# Second turn of a chat with four pictures: {machine}",
        "",
        "| prefix cache | first turn, first token (ms) | second turn, first token (ms) | query tokens of the second prompt |",
        "|---|---:|---:|---:|",
        *(
            f"| {'on' if turn.has_prefix_cache else 'off'} | {turn.first_turn_s * 1000:.1f} | {turn.second_turn_s * 1000:.1f} |"
            f" {turn.second_turn_prefilled:g} |"
            for turn in (without, cached)
        ),
        "",
        f"The second turn's first word comes {without.second_turn_s / cached.second_turn_s:.1f} times sooner with the cache.",
    ]
    (directory / "second_turn.md").write_text("\n".join(text) + "\n")
    _write_json(directory / "second_turn.json", [asdict(turn) for turn in turns])


def _write_json(path: Path, figures: object) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")
