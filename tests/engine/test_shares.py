"""Who shares a pass with whom, and how much of a crowded machine pictures and prompts have."""

from __future__ import annotations

import pytest

from server.engine.batch import Batch
from server.engine.fairness import LANE_QUANTUM_STEPS
from server.engine.sequence import Lane
from tests.engine.known_costs import COSTS, EULER_S, KnownCosts, cost_of

CHEAP_PASSES = COSTS._replace(steps=4e-4, mixed=1e-4, gen_steps=1e-4)
"""A pass costs little beside what is in it: a picture is long enough for one of its own."""
MANY_STEPS = 400
NOBODY = ""
"""Whom chats belong to."""


def num_prompt_tokens(batch: Batch) -> int:
    return sum(piece.num_rows for row in batch.prefills for piece in row.pieces)


def test_pictures_that_fill_a_pass_each_are_drawn_one_after_the_other() -> None:
    house = KnownCosts(costs=CHEAP_PASSES)
    house.picture("first")
    house.picture("second")

    assert house.seconds_until_drawn("first") < 1.1 * EULER_S
    assert house.seconds_until_drawn("second") < 1.1 * EULER_S


def test_pictures_whose_passes_would_mostly_be_fixed_cost_share_them() -> None:
    house = KnownCosts(costs=COSTS._replace(steps=2e-2))
    for name in "abc":
        house.picture(name)
    house.step()

    assert len(house.step().denoises) == 3


def test_a_prompt_makes_the_pass_of_a_picture_no_longer_than_its_fixed_cost_asks_for() -> None:
    house = KnownCosts()
    house.picture("p", num_timesteps=MANY_STEPS)
    house.step()
    for number in range(3):
        house.picture(f"q{number}", num_timesteps=MANY_STEPS, prompt_tokens=4000)

    shared = [batch for batch in (house.step() for _ in range(100)) if batch.denoises and batch.prefills]

    fixed_s = COSTS.steps + COSTS.mixed + COSTS.gen_steps
    assert shared
    assert max(num_prompt_tokens(batch) for batch in shared) < 1000
    assert all(cost_of(batch.load) < 1.1 * 10 * fixed_s for batch in shared)


@pytest.mark.parametrize("weight", [1.0, 10.0])
def test_of_a_crowded_machine_pictures_and_prompts_of_a_tenant_have_half_each(weight: float) -> None:
    house = KnownCosts()
    for number in range(3):
        house.picture(f"p{number}", NOBODY, num_timesteps=MANY_STEPS, weight=weight)
    for number in range(400):
        house.chat(f"c{number}", num_tokens=1, prompt_tokens=600, word=10 + number, weight=weight)
    for _ in range(round(LANE_QUANTUM_STEPS)):  # until the one is a quantum ahead, the shorter go first
        house.step()
    pictures_s = prompts_s = 0.0
    while any(other.lane is Lane.TEXT for other in house.scheduler.running) or not prompts_s:
        batch = house.step()
        seconds, num_prompt = cost_of(batch.load), num_prompt_tokens(batch)
        share = num_prompt / max(1, num_prompt + batch.load.gen_tokens)
        prompts_s += share * seconds
        pictures_s += (1.0 - share) * seconds

    share = pictures_s / (pictures_s + prompts_s)
    assert 0.4 < share < 0.6, (pictures_s, prompts_s)


def test_a_picture_that_comes_after_a_long_time_of_words_does_not_go_before_prompts_for_long() -> None:
    house = KnownCosts()
    house.picture("before", NOBODY)  # what a step of more than words takes
    house.seconds_until_drawn("before")
    house.chat("writing", num_tokens=4000)
    for _ in range(3000):
        house.step()
    house.picture("picture", NOBODY, num_timesteps=MANY_STEPS)
    house.step()
    house.chat("asked", num_tokens=1, prompt_tokens=3000, word=10)

    num_steps = 0
    while not any(closed.request_id == "asked" for closed in house.scheduler.take_outputs().finished):
        house.step()
        num_steps += 1

    assert num_steps <= 10
