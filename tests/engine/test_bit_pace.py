"""How long the next bit of a long pass is taken to be."""

from __future__ import annotations

from server.engine.bit_pace import NUM_KEPT, BitPace


def pace_after(seconds: list[float]) -> BitPace:
    pace = BitPace()
    for one in seconds:
        pace.note(one)
    return pace


def test_nothing_is_known_before_the_first_bit() -> None:
    assert BitPace().next_s == 0.0


def test_a_few_slow_bits_do_not_make_the_next_one_look_slow() -> None:
    assert pace_after([1.0, 1.4, 0.9, 1.1, 5.0, 1.0, 0.9, 1.0]).next_s == 1.4
    assert pace_after([1.0, 0.8, 0.9, 1.0, 5.0, 1.0, 0.9, 1.0]).next_s == 1.0


def test_where_every_other_bit_is_slow_the_next_one_is_taken_to_be() -> None:
    assert pace_after([1.4, 0.8] * 8).next_s == 1.4


def test_longer_bits_are_believed_once_they_are_a_good_part_of_those_kept() -> None:
    assert pace_after([1.0] * NUM_KEPT + [2.0] * (NUM_KEPT // 2 + 1)).next_s == 2.0
