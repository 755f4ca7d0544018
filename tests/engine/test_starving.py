"""Who starves for pages, and whether it would help if younger ones gave theirs up."""

from __future__ import annotations

from itertools import count

import pytest

from server.engine.batch import Batch
from server.engine.context import page_table
from server.engine.drain_rate import DrainRate
from server.engine.fairness import PATIENCE_STEPS, Shares
from server.engine.pages import PagePool
from server.engine.prefix_cache import PrefixCache
from server.engine.reservations import Reservations
from server.engine.roster import Roster
from server.engine.sequence import Phase, Sequence
from tests.engine.fakes import make_request

NUM_PAGES = 20


class Desk:
    """Running sequences that hold pages, in order of arrival, and have rows in every batch."""

    def __init__(self, *num_pages: int) -> None:
        self.pool = PagePool(NUM_PAGES, 4)
        clock = count()
        self.roster = Roster(self.pool, PrefixCache(self.pool, "model"), Shares(), DrainRate(), lambda: float(next(clock)))
        self.reservations = Reservations(self.roster)
        for number, held in enumerate(num_pages):
            sequence = Sequence(number, make_request(str(number)))
            sequence.phase = Phase.PREFILL
            sequence.full.pages = page_table(self.pool.allocate(held))
            sequence.full.kv_len = held * self.pool.page_size
            self.roster.running[number] = sequence

    def ask(self, number: int, num_pages: int, times: int) -> None:
        """Let a sequence's turn come, while all younger ones have rows in the batch already."""
        sequence = self.roster.running[number]
        for _ in range(times):
            assert not self.reservations.reserve(sequence, sequence.full, num_pages * self.pool.page_size, Batch(), {0, 1, 2})


@pytest.mark.parametrize(("times", "starves"), [(PATIENCE_STEPS, False), (PATIENCE_STEPS + 1, True)])
def test_a_sequence_starves_once_it_has_been_short_of_pages_too_often(times: int, starves: bool) -> None:
    desk = Desk(5, 5, 8)
    desk.ask(1, 6, times)
    assert (desk.reservations.starving() is desk.roster.running[1]) is starves


def test_nobody_gives_way_to_what_would_not_have_enough_even_so() -> None:
    """Older ones hold the rest: younger ones lost their pages for nothing, and nobody was let in."""
    desk = Desk(12, 2, 4)
    desk.ask(1, 10, PATIENCE_STEPS + 1)
    assert desk.reservations.starving() is None


def test_pages_that_older_ones_share_are_not_to_be_had_from_younger_ones() -> None:
    desk = Desk(9, 2, 4)
    shared = desk.roster.running[0].full.pages[:6]
    desk.pool.share(shared)
    desk.roster.running[2].full.pages += shared
    desk.ask(1, 10, PATIENCE_STEPS + 1)
    assert desk.reservations.starving() is None


def test_whoever_has_its_pages_or_wants_none_does_not_starve() -> None:
    desk = Desk(5, 5, 8)
    desk.ask(1, 6, PATIENCE_STEPS + 1)
    sequence = desk.roster.running[1]
    sequence.phase = Phase.DENOISE
    assert desk.reservations.starving() is None
    sequence.phase = Phase.PREFILL
    assert desk.reservations.reserve(sequence, sequence.full, 4, Batch(), set())
    assert desk.reservations.starving() is None
