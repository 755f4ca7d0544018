"""The report of one or more ramps: Markdown with tables, and an SVG beside it.

python -m loadtests.load.report --out loadtests/results/load/storybook ramp-a.json ramp-b.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from loadtests.charts import Panel, Series, write_chart
from loadtests.load.levels import Level, Ramp


def markdown(ramps: list[Ramp], picture: str) -> str:
    """Return the report; ``picture`` is the name of its SVG."""
    lines = [f"# Load: {ramps[0].scenario}", "", f"![throughput and waits over users]({picture})", ""]
    for ramp in ramps:
        lines += [f"## {ramp.name}", "", *_summary(ramp), "", *_levels(ramp), "", *_waits(ramp), ""]
    return "\n".join(lines)


def _summary(ramp: Ramp) -> list[str]:
    promise, capacity = ramp.promise, ramp.capacity
    kept = "no level keeps it" if capacity is None else f"{capacity.answers_per_s:.2f} answers/s with {capacity.users} users"
    return [
        f"Machine: {ramp.machine}.",
        f"Service level (95th percentiles): first words ≤ {promise.first_words_s:g} s, between words ≤ {promise.between_words_s:g} s, "
        f"first picture ≤ {promise.first_picture_s:g} s, no failure.",
        f"**Capacity at it: {kept}.** Knee: {ramp.knee.users} users ({ramp.knee.answers_per_s:.2f} answers/s).",
    ]


def _levels(ramp: Ramp) -> list[str]:
    columns = ("users", "answers", "failed", "answers/s", "p95 first words", "p95 between words", "p95 first picture", "kept")
    return [f"| {' | '.join(columns)} |", "|" + "--:|" * len(columns), *(f"| {' | '.join(_row(level, ramp))} |" for level in ramp.levels)]


def _row(level: Level, ramp: Ramp) -> list[str]:
    return [
        str(level.users),
        str(level.answers),
        str(level.failures),
        f"{level.answers_per_s:.2f}",
        f"{level.worst('first words'):.2f} s",
        f"{1000 * level.worst('between words'):.0f} ms",
        f"{level.worst('first picture'):.2f} s",
        "yes" if ramp.promise.holds(level) else "no",
    ]


def _waits(ramp: Ramp) -> list[str]:
    """Every scenario at the knee."""
    head = [f"At the knee ({ramp.knee.users} users):", "", "| scenario | wait | n | p50 | p99 |", "|---|---|--:|--:|--:|"]
    return head + [
        f"| {wait.scenario} | {wait.kind} | {wait.count} | {wait.p50:.3f} s | {wait.p99:.3f} s |"
        for wait in sorted(ramp.knee.waits, key=lambda wait: (wait.scenario, wait.kind))
    ]


def panels(ramps: list[Ramp]) -> list[Panel]:
    """Return four charts over the number of users, one line a ramp."""
    measures: list[tuple[str, str, Callable[[Level], float]]] = [
        ("throughput", "answers a second", lambda level: level.answers_per_s),
        ("first words, p95", "seconds", lambda level: level.worst("first words")),
        ("between words, p95", "seconds", lambda level: level.worst("between words")),
        ("first picture, p95", "seconds", lambda level: level.worst("first picture")),
    ]
    return [
        Panel(title, "users", unit, [Series(ramp.name, [(float(level.users), measure(level)) for level in ramp.levels]) for ramp in ramps])
        for title, unit, measure in measures
    ]


def write_report(ramps: list[Ramp], out: Path) -> None:
    """Write ``out``.md and ``out``.svg."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_chart(out.with_suffix(".svg"), f"Load: {ramps[0].scenario}", panels(ramps))
    out.with_suffix(".md").write_text(markdown(ramps, out.with_suffix(".svg").name), encoding="utf-8")


def main() -> None:
    """Put stored ramps into one report."""
    parser = argparse.ArgumentParser(description="Report of one or more ramps.")
    parser.add_argument("ramps", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    write_report([Ramp.load(path) for path in options.ramps], options.out)


if __name__ == "__main__":
    main()
