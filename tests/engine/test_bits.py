"""Whether a pass is divided at all, and into how many bits a layer of it: as few as the words of others allow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model.stepwise import CPU_CUT, GPU_CUT, UNCUT, Cut
from server.engine.budget import Goals
from server.engine.cost_model import NO_LOAD, Load
from server.engine.decode_pace import DecodePace
from server.engine.loads import denoise_load
from server.engine.options import SchedulerLimits
from tests.engine.fakes import facts
from tests.engine.known_costs import KnownCosts, cost_of

NUM_LAYERS = 8
DECODES = Load(und_tokens=4, pairs=400, rows=4, keys=400)
PASS = denoise_load(1024, 200).joined(denoise_load(1024, 200))


def goals(target_s: float, *, runs_ahead: bool = False) -> Goals:
    costs = KnownCosts().scheduler.costs
    limits = SchedulerLimits(4096, 16, inter_token_target_s=target_s, min_target_decodes=1.5)
    known = replace(facts(), num_layers=NUM_LAYERS, most_bits=CPU_CUT.num_bits, runs_ahead=runs_ahead)
    return Goals(limits, costs, DecodePace(costs.beside), known)


def bits_per_layer(target_s: float, load: Load = PASS, num_decodes: int = 4) -> int:
    return goals(target_s).bits_per_layer(load, DECODES, num_decodes)


def test_the_longer_the_target_the_fewer_the_cuts() -> None:
    numbers = [bits_per_layer(target_s) for target_s in (0.01, 0.02, 0.05, 0.2, 1.0)]

    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > 3 * numbers[-1]


@pytest.mark.parametrize("target_s", [0.01, 0.02, 0.05, 0.2])
def test_a_bit_leaves_most_of_the_time_between_two_words_to_the_pass(target_s: float) -> None:
    """A word that is let through before a bit comes half a bit early on average: that much of the time is lost."""
    bit_s = cost_of(PASS) / (NUM_LAYERS * bits_per_layer(target_s))

    assert bit_s / 2 < 0.15 * (target_s - cost_of(DECODES))


def test_a_pass_beside_nobody_who_writes_is_left_once_a_layer() -> None:
    assert bits_per_layer(0.01, num_decodes=0) == 1


def test_a_pass_whose_layers_are_shorter_than_a_bit_is_left_once_a_layer() -> None:
    assert bits_per_layer(1.0, denoise_load(16, 20)) == 1


def test_no_pass_is_cut_finer_than_the_device_is_good_at() -> None:
    assert bits_per_layer(1e-3, denoise_load(100_000, 0)) == CPU_CUT.num_bits


@pytest.mark.parametrize("finest", [CPU_CUT, GPU_CUT])
def test_a_coarser_cut_has_about_as_many_bits_as_asked_for_and_is_never_finer(finest: Cut) -> None:
    assert finest.into(1) == UNCUT
    for num_bits in range(1, 2 * finest.num_bits):
        cut = finest.into(num_bits)
        assert min(num_bits, finest.num_bits) <= cut.num_bits <= min(num_bits + 2, finest.num_bits)


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_a_pass_beside_those_who_write_is_divided_where_it_is_longer_than_the_target(runs_ahead: bool) -> None:
    assert goals(0.6 * cost_of(PASS), runs_ahead=runs_ahead).should_divide([PASS], DECODES, 4, 0.0)


def test_a_pass_beside_nobody_who_writes_runs_ahead_whole_where_it_can_unless_it_is_very_long() -> None:
    """Divided, it would not run ahead, and the device would wait for the host before each."""
    shares = [0.3, 0.6, 1.2]  # how long the target is, of the pass

    def divided(*, runs_ahead: bool) -> list[bool]:
        return [goals(share * cost_of(PASS), runs_ahead=runs_ahead).should_divide([PASS], NO_LOAD, 0, 0.0) for share in shares]

    assert divided(runs_ahead=False) == [True, True, False]
    assert divided(runs_ahead=True) == [True, False, False]
