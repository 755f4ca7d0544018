"""What the overload test makes of its records, against cases worked out by hand."""

from __future__ import annotations

import pytest

from loadtests.overload.flood import Outcome, Record
from loadtests.overload.processors import ProcessorUse
from loadtests.overload.verdict import Stretch, judge, wait_error

USE = ProcessorUse(0.0, 0.0, 0.0)


def done(sent_s: float, seconds: float) -> Record:
    return Record(draws=False, sent_s=sent_s, seconds=seconds, outcome=Outcome.DONE)


def refused(sent_s: float, retry_after_s: float) -> Record:
    return Record(draws=False, sent_s=sent_s, seconds=0.0, outcome=Outcome.REFUSED, retry_after_s=retry_after_s)


QUEUE = [done(0.0, 10.0 + 2.0 * place) for place in range(10)]
"""Ten accepted at 0, of which one finishes every two seconds from 10 on."""


def test_a_wait_is_right_when_as_many_had_finished_as_were_waiting() -> None:
    """With five worked on, five waited; the fifth finish is at 18, so at 9 the wait was 9 seconds."""
    assert wait_error([*QUEUE, refused(9.0, 9.0)], num_places=5) == 0.0
    assert wait_error([*QUEUE, refused(9.0, 18.0)], num_places=5) == pytest.approx(1.0)


def test_a_wait_whose_end_is_not_in_the_records_says_nothing() -> None:
    late = Record(draws=False, sent_s=0.0, seconds=50.0, outcome=Outcome.LATE)
    assert wait_error([*[late] * 10, refused(9.0, 9.0)], num_places=5) == 0.0


def test_goodput_counts_what_came_in_time_and_before_the_end() -> None:
    calm = Stretch([done(0.0, 1.0), done(1.0, 1.0), done(9.5, 1.0)], 10.0, USE)
    storm = Stretch([done(0.0, 1.0), Record(False, 1.0, 30.0, Outcome.LATE), refused(2.0, 1.0)], 10.0, USE)
    verdict = judge(calm, storm, capacity=0.3, num_places=4, recovery_s=1.0)
    assert (verdict.goodput_calm, verdict.goodput_storm, verdict.goodput_ratio) == (0.2, 0.1, 0.5)
    assert (verdict.num_accepted, verdict.num_late, verdict.num_refused) == (5, 1, 1)
    assert not verdict.holds


def test_a_run_in_which_every_promise_is_kept_holds() -> None:
    stretch = Stretch([done(place, 1.0) for place in range(9)], 10.0, USE)
    assert judge(stretch, stretch, capacity=1.0, num_places=4, recovery_s=0.5).holds
