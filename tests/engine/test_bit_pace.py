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


def test_the_next_bit_is_taken_to_be_as_long_as_most_not_as_the_slowest() -> None:
    assert pace_after([1.0, 0.9, 5.0, 1.1, 3.0]).next_s == 1.1


def test_bits_of_another_length_are_believed_after_half_of_those_kept() -> None:
    assert pace_after([1.0] * NUM_KEPT + [2.0] * (NUM_KEPT // 2 + 1)).next_s == 2.0
