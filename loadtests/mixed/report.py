"""Writes what the sweep of targets and the second turn found: tables in Markdown, every figure in JSON, a plot in SVG."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from loadtests.charts import Panel, Series, write_chart
from loadtests.figures import write_json
from loadtests.mixed.late import ELSEWHERE
from loadtests.mixed.second_turn import SecondTurn
from loadtests.mixed.target import LATE, Kept
from loadtests.replays.metered import Doing

CAUSES = (*(doing.value for doing in Doing), ELSEWHERE)


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
    write_json(directory / "target.json", [asdict(kept) for kept in sweep])
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
    write_json(directory / "second_turn.json", [asdict(turn) for turn in turns])
