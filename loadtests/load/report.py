"""The report of one or more ramps: Markdown with tables, and an SVG beside it.

python -m loadtests.load.report --out loadtests/results/load/storybook ramp-a.json ramp-b.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from loadtests.load.levels import Level, Ramp

WIDTH, HEIGHT, MARGIN = 360, 240, 44
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7a4fa3")


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


def svg(ramps: list[Ramp]) -> str:
    """Return four charts over the number of users, one line a ramp."""
    measures: list[tuple[str, Callable[[Level], float]]] = [
        ("answers a second", lambda level: level.answers_per_s),
        ("p95 first words, s", lambda level: level.worst("first words")),
        ("p95 between words, s", lambda level: level.worst("between words")),
        ("p95 first picture, s", lambda level: level.worst("first picture")),
    ]
    corners = [(column * WIDTH, row * HEIGHT) for row in range(2) for column in range(2)]
    charts = "".join(_chart(title, measure, ramps, corner) for (title, measure), corner in zip(measures, corners, strict=True))
    legend = "".join(
        f'<text x="{MARGIN + 170 * index}" y="{2 * HEIGHT + 18}" fill="{COLOURS[index % len(COLOURS)]}">{ramp.name}</text>'
        for index, ramp in enumerate(ramps)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{2 * HEIGHT + 28}" font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="white"/>{charts}{legend}</svg>\n'
    )


def _chart(title: str, measure: Callable[[Level], float], ramps: list[Ramp], corner: tuple[int, int]) -> str:
    left, top = corner
    most_users = max(level.users for ramp in ramps for level in ramp.levels)
    highest = max((measure(level) for ramp in ramps for level in ramp.levels), default=0.0) or 1.0
    width, height = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN

    def place(level: Level) -> str:
        across, up = level.users / most_users, measure(level) / highest
        return f"{left + MARGIN + across * width:.1f},{top + MARGIN + (1 - up) * height:.1f}"

    lines = "".join(
        f'<polyline points="{" ".join(map(place, ramp.levels))}" fill="none" stroke="{COLOURS[index % len(COLOURS)]}" stroke-width="2"/>'
        for index, ramp in enumerate(ramps)
    )
    return (
        f'<rect x="{left + MARGIN}" y="{top + MARGIN}" width="{width}" height="{height}" fill="none" stroke="#bbb"/>{lines}'
        f'<text x="{left + MARGIN}" y="{top + MARGIN - 8}" font-weight="bold">{title}</text>'
        f'<text x="{left + MARGIN - 4}" y="{top + MARGIN + 10}" text-anchor="end">{highest:.3g}</text>'
        f'<text x="{left + MARGIN - 4}" y="{top + HEIGHT - MARGIN}" text-anchor="end">0</text>'
        f'<text x="{left + WIDTH - MARGIN}" y="{top + HEIGHT - MARGIN + 14}" text-anchor="end">{most_users} users</text>'
    )


def write_report(ramps: list[Ramp], out: Path) -> None:
    """Write ``out``.md and ``out``.svg."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".svg").write_text(svg(ramps), encoding="utf-8")
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
