"""The checks of the scheduler's state machine, seen to fire: each test plants a bug and lets the machine find it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from server.engine import fairness
from server.engine.batch import Draw
from server.engine.pages import PagePool, Pages
from server.engine.prefix_cache import Claim, PrefixCache
from server.engine.sequence import Sequence
from server.engine.turns import Turns
from tests.engine.test_scheduler_machine import IN_STEP, ROOMY_PAGES, SchedulerMachine

NUM_HISTORIES = 2000
"""At most: a search ends where it finds something, which for the rarest of these bugs takes some 50 histories, 200 at times."""
LEAK_EVERY = 5

SEARCH = settings(
    max_examples=NUM_HISTORIES,
    stateful_step_count=40,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class LeakingPool(PagePool):
    """Forgets one page in a few that come back."""

    _num_releases = 0

    def release(self, pages: Pages) -> None:
        self._num_releases += 1
        super().release(pages[1:] if self._num_releases % LEAK_EVERY == 0 else pages)


class DoublingPool(PagePool):
    """Hands out a page of another context now and then."""

    _last: list[int] | None = None

    def allocate(self, num_pages: int) -> list[int]:
        taken = super().allocate(num_pages)
        if self._last is not None and num_pages == 1:
            return [self._last.pop()] if self._last else taken
        self._last = list(taken)
        return taken


class LeakingMachine(SchedulerMachine):
    pool_type = LeakingPool


class DoublingMachine(SchedulerMachine):
    pool_type = DoublingPool


@pytest.mark.parametrize("machine", [LeakingMachine, DoublingMachine])
def test_random_histories_find_a_pool_that_loses_a_page_or_gives_one_twice(machine: type[SchedulerMachine]) -> None:
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=SEARCH)


def crowd_out_the_plain() -> None:
    """One picture of no priority, and others of high priority that come for longer than it may be passed over."""
    machine = SchedulerMachine()
    machine.open(num_pages=ROOMY_PAGES, page_size=4, max_batch_tokens=8, target_s=None, has_prefix_cache=False, device=IN_STEP)
    machine.keep_the_favoured_coming()
    machine.teardown()


def test_a_scheduler_that_knows_no_patience_is_caught_starving_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "PATIENCE_STEPS", 10**9)

    with pytest.raises(AssertionError):
        crowd_out_the_plain()


def test_the_scheduler_as_it_is_starves_nobody_in_the_same_history() -> None:
    crowd_out_the_plain()


def test_random_histories_find_the_starvation_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "PATIENCE_STEPS", 10**9)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(SchedulerMachine, settings=SEARCH)


def test_random_histories_find_a_cache_that_vouches_for_the_rows_of_a_step_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    settle = PrefixCache.settle

    def settle_as_filled(self: PrefixCache, claims: list[Claim], *, are_filled: bool) -> None:
        settle(self, claims, are_filled=True)

    monkeypatch.setattr(PrefixCache, "settle", settle_as_filled)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(SchedulerMachine, settings=SEARCH)


def test_random_histories_find_draws_ahead_that_do_not_count_the_token_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_for = Turns.draw_for

    def draw_for_what_is_known(self: Turns, sequence: Sequence, *, is_ahead: bool = False) -> Draw:
        return draw_for(self, sequence, is_ahead=is_ahead)._replace(is_ahead=False)

    monkeypatch.setattr(Turns, "draw_for", draw_for_what_is_known)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(SchedulerMachine, settings=SEARCH)
