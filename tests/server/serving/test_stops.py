"""Stop strings in text that comes in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.serving.stops import StopFinder

LETTERS = st.text("ab", max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def shown(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    finder = StopFinder(stops)
    text = ""
    for piece in pieces:
        text += finder.push(piece)
        if finder.is_found:
            return text, True
    return text + finder.flush(), False


@given(pieces=st.lists(LETTERS, max_size=8), stops=STOPS)
def test_what_is_shown_does_not_contain_a_stop_string_and_is_the_text_before_it(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    text, is_found = shown(pieces, stops)
    assert is_found == any(stop in whole for stop in stops)
    assert not any(stop in text for stop in stops)
    assert whole.startswith(text) and (is_found or text == whole)


def test_of_two_stop_strings_in_one_piece_the_earlier_one_ends_the_text() -> None:
    assert shown(["one two three"], ["three", "two"]) == ("one ", True)


def test_the_beginning_of_a_stop_string_is_held_back_until_it_is_none() -> None:
    finder = StopFinder(["END"])
    assert [finder.push("the E"), finder.push("N"), finder.push("vy")] == ["the ", "", "ENvy"]
