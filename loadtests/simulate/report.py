"""Writes what the simulation found: tables in Markdown, figures in JSON, plots in SVG."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

from loadtests.charts import Panel, Series, write_chart
from loadtests.figures import write_json
from loadtests.simulate.bound import Bound, Work
from loadtests.simulate.plan import Fared, Router, knee
from loadtests.simulate.validate import LARGEST_ERROR, NUM_LUCKS, Compared, Validated, Validation
from loadtests.virtual.costs import SPELL_S

FLEET_HEAD = (
    "| replicas | routing | busy | history found | first word mean / p99 (s) | between words (ms) | first picture mean / p99 (s)"
    " | replica-hours | per 1,000 requests |\n|---:|---|---:|---:|---:|---:|---:|---:|---:|"
)


def fleet_table(fared: list[Fared]) -> str:
    """Return the table of tried fleets."""
    return "\n".join([FLEET_HEAD, *(_fleet_row(one) for one in fared)])


def _fleet_row(one: Fared) -> str:
    figures = one.figures
    return (
        f"| {figures.num_replicas:,} | {one.router.value} | {figures.utilisation:.0%} | {figures.hit_rate:.0%}"
        f" | {_pair(figures.first_word_mean_s, figures.first_word_p99_s)} | {figures.gap_mean_s * 1000:.1f}"
        f" | {_pair(figures.first_picture_mean_s, figures.first_picture_p99_s)} | {one.replica_hours:,.1f} | {one.price_per_thousand:.3f} |"
    )


def _pair(mean_s: float, p99_s: float) -> str:
    return f"{mean_s:.3g} / {p99_s:.3g}"


def write_plan(directory: Path, name: str, title: str, fared: list[Fared], *, has_knee: bool) -> str:
    """Write the page, the figures and the plot of tried fleets; return the page."""
    directory.mkdir(parents=True, exist_ok=True)
    text = [f"# {title}", "", fleet_table(fared)]
    if has_knee:
        knees = ", ".join(f"{knee(fared, router):,} replicas ({router.value})" for router in Router)
        text += ["", f"The knee, where the 99th percentiles are within twice those of the largest fleet: {knees}."]
    page = "\n".join(text) + "\n"
    (directory / f"{name}.md").write_text(page)
    write_json(directory / f"{name}.json", [{"router": one.router.value, **asdict(one.figures)} for one in fared])
    panels = [
        Panel("first word, p99", "replicas", "seconds", _series(fared, "first_word_p99_s"), log_x=True),
        Panel("first picture, p99", "replicas", "seconds", _series(fared, "first_picture_p99_s"), log_x=True),
        Panel("history found where the next turn went", "replicas", "share", _series(fared, "hit_rate"), log_x=True, y_max=1.0),
    ]
    write_chart(directory / f"{name}.svg", title, panels)
    return page


def _series(fared: list[Fared], field: str) -> list[Series]:
    return [
        Series(router.value, [(one.figures.num_replicas, asdict(one.figures)[field]) for one in fared if one.router is router])
        for router in Router
    ]


def write_bounds(directory: Path, found: dict[str, Bound], load: float, machine: str) -> str:
    """Write the page of the bounds of several mixes, by name; return it."""
    directory.mkdir(parents=True, exist_ok=True)
    text = [
        f"# How much more than staged engines Plait can do at most: {machine}",
        "",
        f"| mix | times as much, by its work | without fixed costs of steps | delivered at {load:.0%} load over a long trace | at most |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {name} | {one.ratio:.2f} | {one.most:.2f} | {one.delivered(one.ratio, load):.2f} | {one.delivered(one.most, load):.2f} |"
            for name, one in found.items()
        ),
    ]
    for name, one in found.items():
        text += ["", f"## {name}", "", "| work | plait | staged | staged / plait |", "|---|---:|---:|---:|"]
        text += _work_rows(one.plait, one.staged)
    page = "\n".join(text) + "\n"
    (directory / "bound.md").write_text(page)
    return page


def _work_rows(plait: Work, staged: Work) -> list[str]:
    figures = [
        ("steps", plait.load.steps, staged.load.steps),
        ("tokens, understanding expert", plait.load.und_tokens, staged.load.und_tokens),
        ("tokens, generation expert", plait.load.gen_tokens, staged.load.gen_tokens),
        ("attended pairs (millions)", plait.load.pairs / 1e6, staged.load.pairs / 1e6),
        ("pixels encoded (millions)", plait.load.encoded_pixels / 1e6, staged.load.encoded_pixels / 1e6),
        ("fixed costs of steps (s)", plait.fixed_s, staged.fixed_s),
        ("all other work (s)", plait.rows_s, staged.rows_s),
    ]
    return [f"| {name} | {ours:,.1f} | {theirs:,.1f} | {theirs / ours:.2f} |" for name, ours, theirs in figures]


VALIDATION_HEAD = (
    "| metric | real | simulated | least to greatest | error | costs of the run before | error | coarse | error |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def write_validation(directory: Path, validation: Validation, machine: str, plan: str) -> str:
    """Write the page and the figures of a validation of what ``plan`` says; return the page."""
    directory.mkdir(parents=True, exist_ok=True)
    text = [
        f"# Simulation against the engine, one replica: {machine}",
        "",
        f"{plan}. Simulated: the real scheduler in virtual time, mean of {NUM_LUCKS} lucks, on costs, and a course of the machine's speed,"
        f" fitted to the steps of the very replays it is compared with. Beside it on costs of another run, just before, of"
        f" {validation.before.num_steps} steps, where what it is further off is the machine's drift. Coarse: the model that fleets are made"
        " of, on the former costs.",
    ]
    for validated in validation.loads:
        text += ["", f"## {validated.load:.0%} load", "", VALIDATION_HEAD, *(_validation_row(one) for one in validated.metrics), ""]
        text += [_verdict(validated)]
    page = "\n".join(text) + "\n"
    (directory / "validate.md").write_text(page)
    figures = {str(validated.load): [asdict(one) for one in validated.metrics] for validated in validation.loads}
    write_json(directory / "validate.json", figures)
    return page


def _verdict(validated: Validated) -> str:
    missed = [one.name for one in validated.metrics if not one.holds]
    words = [spell for costs in validated.costs for spell in costs.slowness.words]
    others = [spell for costs in validated.costs for spell in costs.slowness.others]
    num_steps, error = sum(costs.num_steps for costs in validated.costs), max(costs.median_error for costs in validated.costs)
    found = f"all but {', '.join(missed)}" if missed else "every metric"
    return (
        f"{num_steps} steps; in spells of {SPELL_S:g} s those of words took {min(words):.2f} to {max(words):.2f} times as long as"
        f" usual, the others {min(others):.2f} to {max(others):.2f}."
        f" Median error of the fit {error:.1%}. Within {LARGEST_ERROR:.0%} of the engine: {found}."
    )


def _validation_row(one: Compared) -> str:
    coarse, error = ("–", "–") if math.isnan(one.coarse) else (f"{one.coarse:.4g}", f"{one.coarse_error:+.1%}")
    return (
        f"| {one.name} | {one.real:.4g} | {one.fine:.4g} | {one.low:.4g} to {one.high:.4g} | {one.fine_error:+.1%}"
        f" | {one.foreseen:.4g} | {one.foreseen_error:+.1%} | {coarse} | {error} |"
    )
