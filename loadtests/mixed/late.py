"""Why a word was late: which kind of work took how much longer than it usually does in the time between two words."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from statistics import median

from loadtests.replays.metered import Doing, Spell

ELSEWHERE = "outside the runner"


@dataclass(frozen=True, slots=True)
class Gap:
    """The time between two neighbouring words of a chat, in seconds of `time.perf_counter`."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


def causes(gaps: list[Gap], spells: list[Spell], latest_s: float) -> Counter[str]:
    """Count the gaps longer than ``latest_s``, each step once, by the work that exceeded its usual share of a gap most."""
    steps = list({gap.end_s: gap for gap in gaps}.values())
    parts = [_parts(gap, spells) for gap in steps]
    usual = {name: median(part[name] for part in parts) for name in parts[0]} if parts else {}
    late = [part for gap, part in zip(steps, parts, strict=True) if gap.seconds > latest_s]
    return Counter(max(part, key=lambda name: part[name] - usual[name]) for part in late)


def _parts(gap: Gap, spells: list[Spell]) -> dict[str, float]:
    """Return how much of a gap was spent on what; ``spells`` are in order."""
    parts = {doing.value: 0.0 for doing in Doing}
    index = bisect_left(spells, gap.start_s, key=lambda spell: spell.end_s)
    while index < len(spells) and spells[index].start_s < gap.end_s:
        spell = spells[index]
        parts[spell.doing.value] += min(spell.end_s, gap.end_s) - max(spell.start_s, gap.start_s)
        index += 1
    return parts | {ELSEWHERE: gap.seconds - sum(parts.values())}
