"""Writes what a comparison found: a table in Markdown, every figure in JSON, distributions as SVG, and the costs and traces of the run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtests.charts import Panel, distribution, write_chart
from loadtests.comparison.compare import Comparison, Outcome, Plan
from loadtests.figures import write_json
from loadtests.replays.measures import first_picture_waits, first_token_waits, word_gaps
from loadtests.replays.stand import Way
from loadtests.traces.sessions import write_trace
from loadtests.virtual.costs import write_costs
from server.engine.options import EngineOptions


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
    write_json(directory / "compare.json", figures)
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
