"""What penalties count of a text."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from kernels.token_counts import CountedText, TokenCounts, counts_of

TEXTS = st.lists(st.integers(0, 9))


def by_token(counts: TokenCounts) -> dict[int, int]:
    return dict(zip(counts.token_ids, counts.counts, strict=True))


@given(TEXTS)
def test_each_token_stands_once_at_its_place(text: list[int]) -> None:
    counts = counts_of(text)
    assert by_token(counts) == Counter(text)
    for token_id in range(10):
        place = counts.place_of(token_id)
        assert counts.token_ids[place] == token_id if place is not None else token_id not in text


def counts_before(text: list[int], rest: list[int]) -> TokenCounts:
    """Return the counts of a text that has gone on since."""
    growing = CountedText()
    for token_id in text:
        growing.add(token_id)
    before = growing.so_far()
    for token_id in rest:
        growing.add(token_id)
    return before


@given(TEXTS, TEXTS)
def test_counts_stay_what_they_were_when_the_text_goes_on(text: list[int], rest: list[int]) -> None:
    before = counts_before(text, rest)
    assert by_token(before) == Counter(text)
    assert {token_id for token_id in range(10) if before.place_of(token_id) is not None} == set(text)


@given(TEXTS, TEXTS, st.integers(0, 9))
def test_one_token_more_is_counted_as_if_it_had_been_written(text: list[int], rest: list[int], another: int) -> None:
    """Also where the text has gone on in another way meanwhile, whose tokens have the same places."""
    before = counts_before(text, rest)
    after = before.with_another(another)
    assert by_token(after) == Counter([*text, another])
    assert {token_id for token_id in range(10) if after.place_of(token_id) is not None} == {*text, another}
    assert by_token(before) == Counter(text)
