"""How long the next bit of a long pass is taken to be."""

from __future__ import annotations

import time

from model.stepwise import Steps
from server.engine.batch import BatchResult
from server.engine.bit_pace import NUM_KEPT, BitPace, BitPaces
from server.engine.long_pass import AWAY_S, Pass
from server.engine.queued_bits import QueuedBits

SLOW_S, QUICK_S = 0.3, 1e-3


def pace_after(seconds: list[float]) -> BitPace:
    pace = BitPace()
    for one in seconds:
        pace.note(one)
    return pace


def test_nothing_is_known_before_the_first_bit() -> None:
    assert BitPace().next_s == 0.0


def test_the_next_bit_is_taken_to_be_as_slow_as_any_of_the_latest_few() -> None:
    assert pace_after([1.0, 1.4, 0.9]).next_s == 1.4


def test_one_slow_bit_in_a_layers_worth_is_not_waited_for_and_two_are() -> None:
    ordinary = [1.0] * (NUM_KEPT - 2)
    assert pace_after([*ordinary, 5.0, 1.1]).next_s == 1.1
    assert pace_after([*ordinary, 5.0, 4.0]).next_s == 4.0


def test_passes_cut_differently_have_paces_of_their_own_that_last() -> None:
    paces = BitPaces()
    paces.of(4).note(1.0)
    paces.of(40).note(0.1)

    assert (paces.of(4).next_s, paces.of(40).next_s, paces.of(5).next_s) == (1.0, 0.1, 0.0)


def test_a_layer_of_many_bits_is_remembered_whole() -> None:
    """Its few long bits come after many short ones, and before the next layer's."""
    pace = BitPace(bits_per_layer=60)
    for one in ([1.0] * 8 + [0.1] * 52) * 2:
        pace.note(one)

    assert pace.next_s == 1.0


def test_old_bits_are_forgotten() -> None:
    assert pace_after([9.0] * NUM_KEPT + [1.0] * NUM_KEPT).next_s == 1.0


def test_the_first_bit_after_others_had_the_device_says_nothing_of_the_next() -> None:
    """What it needs is no longer in the caches."""

    def steps() -> Steps[BatchResult]:
        for seconds in (SLOW_S, QUICK_S, SLOW_S, QUICK_S):
            time.sleep(seconds)
            yield
        return BatchResult()

    pace = BitPace()
    divided = Pass(steps(), pace, QueuedBits(None))
    for _ in range(2):
        divided.advance(float("-inf"))
        divided.advance(float("-inf"))
        time.sleep(10 * AWAY_S)

    assert QUICK_S <= pace.next_s < SLOW_S
