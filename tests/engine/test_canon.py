"""A request continued from its canon: wherever the first engine stopped, the second goes on as the first would have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from model.config import BagelConfig
from model.profile import Family, FamilyProfile
from server.engine.outputs import Outputs
from server.messages import FinishedOutput, FinishReason, ImageParams, OutputMode, Picture, Request, SamplingParams
from tests.engine.fakes import BOI, BOS, END, EOS, FREE, House, grey, make_house, make_request, picture_segment

BAGEL = FamilyProfile.of_family(Family.BAGEL, BagelConfig.named("tiny"))
THREE = ImageParams(32, 32, num_timesteps=4, max_images=3)


@dataclass(frozen=True, slots=True)
class Case:
    request: Request
    drawn: Callable[[int], int]
    """The token of each draw, by its index."""
    profile: FamilyProfile = FREE


def by_index(*tokens: int) -> Callable[[int], int]:
    return lambda index: tokens[index] if index < len(tokens) else END


CASES = {
    "a text that ends": Case(make_request("r", sampling=SamplingParams(max_tokens=9)), by_index(21, 22, 23, END)),
    "a text cut at its limit": Case(make_request("r", sampling=SamplingParams(max_tokens=3)), by_index(21, 22, 23, 24)),
    "texts and pictures in turn": Case(
        make_request("r", mode=OutputMode.ALTERNATE, sampling=SamplingParams(max_tokens=8), image=THREE), by_index(21, 22, EOS, 23, EOS, 24)
    ),
    "pictures alone": Case(make_request("r", mode=OutputMode.IMAGE, image=THREE), by_index()),
    "an edit": Case(make_request("r", [picture_segment()], mode=OutputMode.IMAGE), by_index()),
    "a plan before a picture": Case(
        make_request("r", mode=OutputMode.ALTERNATE, sampling=SamplingParams(max_tokens=9), is_thought=True), by_index(21, 22, EOS), BAGEL
    ),
    "the model decides": Case(
        make_request("r", mode=OutputMode.INTERLEAVED, sampling=SamplingParams(max_tokens=20), image=THREE),
        by_index(21, EOS, BOI, BOS, 22, BOI, BOS, 23, EOS, BOS, 24, EOS, END),
    ),
}


@dataclass(slots=True)
class Tape:
    """What an engine said, by step: canon for a second one, and the answer's tokens and number of pictures."""

    canon: list[int | Picture] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    num_images: int = 0
    finished: list[FinishedOutput] = field(default_factory=list)

    def take(self, outputs: Outputs) -> None:
        self.canon += [draw.token_id for draw in outputs.silent] + [token.token_id for token in outputs.tokens]
        self.canon += [image.picture for image in outputs.images]
        self.tokens += [token.token_id for token in outputs.tokens]
        self.num_images += len(outputs.images)
        self.finished += outputs.finished


def house_of(case: Case) -> House:
    return make_house(lambda _, index: case.drawn(index), profile=case.profile)


def run(case: Case, request: Request, max_steps: int = 500) -> Tape:
    """Run a request for a number of steps or to its end."""
    house, tape = house_of(case), Tape()
    house.scheduler.submit(request)
    for _ in range(max_steps):
        tape.take(house.step())
        if tape.finished:
            assert house.pool.num_used == 0
            break
    return tape


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_answer_stopped_anywhere_goes_on_as_if_nothing_had_happened(case: Case) -> None:
    undisturbed = run(case, case.request)
    (end,) = undisturbed.finished
    for num_items in range(len(undisturbed.canon) + 1):
        continued = run(case, replace(case.request, canon=undisturbed.canon[:num_items]))
        assert continued.canon == undisturbed.canon[num_items:]
        assert [(other.reason, other.usage) for other in continued.finished] == [(end.reason, end.usage)]


FOREIGN = {
    "a picture in the middle of a text": (CASES["texts and pictures in turn"], [21, grey(32, 32)]),
    "a token where a picture is due": (CASES["an edit"], [21]),
    "a text beyond its limit": (CASES["a text cut at its limit"], [21, 22, 23, 24]),
    "a decision nobody could have made": (CASES["the model decides"], [21, EOS, 22, 23]),
}


@pytest.mark.parametrize(("case", "canon"), FOREIGN.values(), ids=FOREIGN.keys())
def test_canon_that_could_not_have_been_made_here_ends_its_request_and_no_other(case: Case, canon: list[int | Picture]) -> None:
    """An engine of another model, or with room for longer answers, made it."""
    house = house_of(case)
    house.scheduler.submit(replace(case.request, request_id="other"))
    house.step()

    house.scheduler.submit(replace(case.request, canon=canon))

    ends = {end.request_id: end.reason for end in house.run().finished}
    assert ends.pop("r") is FinishReason.ERROR
    assert ends.keys() == {"other"} and FinishReason.ERROR not in ends.values()
    assert house.pool.num_used == 0


def test_a_second_engine_may_be_stopped_too() -> None:
    case = CASES["the model decides"]
    undisturbed = run(case, case.request)
    canon: list[int | Picture] = []
    for _ in range(50):
        tape = run(case, replace(case.request, canon=canon), max_steps=4)
        canon = canon + tape.canon
        if tape.finished:
            break
    assert canon == undisturbed.canon and tape.finished == undisturbed.finished
