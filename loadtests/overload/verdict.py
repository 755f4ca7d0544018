"""What a flood showed, beside what was promised."""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from loadtests.overload.flood import Outcome, Record
from loadtests.overload.processors import ProcessorUse

LEAST_GOODPUT = 0.9
LARGEST_WAIT_ERROR = 0.3
LONGEST_RECOVERY_S = 5.0
LANES = (False, True)
"""By whether a picture is drawn."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Figures of one run.

    Attributes:
        capacity, goodput_calm, goodput_storm: requests a second.
        num_late: accepted, and not done within the time they gave.
        num_failed: neither answered nor refused.
        num_refused: told to come back.
        wait_error: median relative error of what they were told, against when the queue before them had really left.
        recovery_s: from the end of the flood to an answer as before it.
        processors_calm, processors_storm: whose work the machine did, the client's part included.
    """

    capacity: float
    goodput_calm: float
    goodput_storm: float
    num_accepted: int
    num_late: int
    num_failed: int
    num_refused: int
    wait_error: float
    recovery_s: float
    processors_calm: ProcessorUse
    processors_storm: ProcessorUse

    @property
    def goodput_ratio(self) -> float:
        return self.goodput_storm / self.goodput_calm if self.goodput_calm else 0.0

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        is_honest = self.num_late == self.num_failed == 0 and self.wait_error <= LARGEST_WAIT_ERROR
        return is_honest and self.goodput_ratio >= LEAST_GOODPUT and self.recovery_s <= LONGEST_RECOVERY_S

    def table(self) -> str:
        """Return the figures as a Markdown table."""
        rows = [
            ("capacity", f"{self.capacity:.2f} requests/s", ""),
            ("goodput at 1 x", f"{self.goodput_calm:.2f} requests/s", ""),
            ("goodput at 5 x", f"{self.goodput_storm:.2f} requests/s, {self.goodput_ratio:.2f} of that", f">= {LEAST_GOODPUT}"),
            ("accepted and late", f"{self.num_late} of {self.num_accepted}", "0"),
            ("failed otherwise", str(self.num_failed), "0"),
            ("refused", str(self.num_refused), ""),
            ("error of Retry-After, median", f"{self.wait_error:.0%}", f"<= {LARGEST_WAIT_ERROR:.0%}"),
            ("recovery after the flood", f"{self.recovery_s:.1f} s", f"<= {LONGEST_RECOVERY_S:g} s"),
            ("processors busy at 1 x", self.processors_calm.line(), ""),
            ("processors busy at 5 x", self.processors_storm.line(), ""),
        ]
        return "\n".join(["| figure | measured | goal |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)])


@dataclass(frozen=True, slots=True)
class Stretch:
    """Requests sent over ``seconds``, and whose work the machine did meanwhile."""

    records: Sequence[Record]
    seconds: float
    processors: ProcessorUse


def judge(calm: Stretch, storm: Stretch, capacity: float, num_places: int, recovery_s: float) -> Verdict:
    """Work the figures out; ``num_places`` is how many requests the server works on at once."""
    both = [*calm.records, *storm.records]
    num_late = sum(record.outcome is Outcome.LATE for record in both)
    num_done = sum(record.outcome is Outcome.DONE for record in both)
    return Verdict(
        capacity=capacity,
        goodput_calm=_goodput(calm),
        goodput_storm=_goodput(storm),
        num_accepted=num_done + num_late,
        num_late=num_late,
        num_failed=sum(record.outcome is Outcome.FAILED for record in both),
        num_refused=sum(record.outcome is Outcome.REFUSED for record in both),
        wait_error=wait_error(storm.records, num_places),
        recovery_s=recovery_s,
        processors_calm=calm.processors,
        processors_storm=storm.processors,
    )


def _goodput(stretch: Stretch) -> float:
    """Answers that came in time before the stretch ended, a second: what is answered after it is owed to the rest that follows."""
    if not stretch.records:
        return 0.0
    end_s = stretch.records[0].sent_s + stretch.seconds
    return sum(record.outcome is Outcome.DONE and _end_s(record) <= end_s for record in stretch.records) / stretch.seconds


def wait_error(records: Sequence[Record], num_places: int) -> float:
    """Return the median relative error of Retry-After.

    A refused request was told when there would be a place for it: once as many of its lane had finished as were waiting in it. Waiting are
    those accepted and unfinished, less what was being worked on, at most ``num_places`` over both lanes.
    """
    errors: list[float] = []
    lanes = {draws: _Lane.of([record for record in records if record.draws is draws]) for draws in LANES}
    for record in records:
        if record.outcome is Outcome.REFUSED and record.retry_after_s is not None:
            unfinished = {draws: lanes[draws].num_unfinished(record.sent_s) for draws in LANES}
            share_waiting = max(0.0, 1.0 - num_places / max(1, sum(unfinished.values())))
            free_s = lanes[record.draws].finished_s(record.sent_s, round(unfinished[record.draws] * share_waiting))
            if free_s is not None:
                actual_s = max(1.0, free_s - record.sent_s)
                errors.append(abs(record.retry_after_s - actual_s) / actual_s)
    return statistics.median(errors) if errors else 0.0


@dataclass(frozen=True, slots=True)
class _Lane:
    """When the accepted requests of one lane came and ended, and when those that were done were; each in order."""

    sent_s: list[float]
    ended_s: list[float]
    done_s: list[float]

    @classmethod
    def of(cls, records: Sequence[Record]) -> Self:
        accepted = [record for record in records if record.outcome is not Outcome.REFUSED]
        done = [record for record in accepted if record.outcome is Outcome.DONE]
        return cls(sorted(record.sent_s for record in accepted), sorted(map(_end_s, accepted)), sorted(map(_end_s, done)))

    def num_unfinished(self, at_s: float) -> int:
        return bisect.bisect_right(self.sent_s, at_s) - bisect.bisect_right(self.ended_s, at_s)

    def finished_s(self, at_s: float, count: int) -> float | None:
        """Return when ``count`` more were done than at ``at_s``; None if they never were."""
        last = bisect.bisect_right(self.done_s, at_s) + count - 1
        return self.done_s[max(0, last)] if last < len(self.done_s) else None


def _end_s(record: Record) -> float:
    return record.sent_s + record.seconds
