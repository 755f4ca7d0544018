"""Late words are put down to what took longer than usual before them."""

from __future__ import annotations

from loadtests.mixed.late import ELSEWHERE, Gap, causes
from loadtests.replays.metered import Doing, Spell


def timeline(*rounds: tuple[float, float, float]) -> tuple[list[Gap], list[Spell]]:
    """Return gaps and spells of ``(seconds of a picture, of words, of nothing)`` one after the other."""
    gaps: list[Gap] = []
    spells: list[Spell] = []
    now_s = 0.0
    for picture_s, words_s, nothing_s in rounds:
        start_s, words_at_s = now_s, now_s + picture_s
        now_s = words_at_s + words_s
        spells += [Spell(Doing.PICTURE, start_s, words_at_s), Spell(Doing.WORDS, words_at_s, now_s)]
        now_s += nothing_s
        gaps.append(Gap(start_s, now_s))
    return gaps, spells


def test_a_late_word_is_put_down_to_what_took_longer_than_usual() -> None:
    """A long bit, a slow decode step, and time that the engine spent elsewhere; the usual words are not late."""
    usual = (0.6, 0.3, 0.1)
    gaps, spells = timeline(usual, usual, usual, usual, (1.6, 0.3, 0.1), (0.6, 1.3, 0.1), (0.5, 0.3, 1.2))
    assert causes(gaps, spells, 1.5) == {Doing.PICTURE.value: 1, Doing.WORDS.value: 1, ELSEWHERE: 1}


def test_words_of_one_step_are_late_once() -> None:
    gaps, spells = timeline((0.6, 0.3, 0.1), (0.6, 0.3, 0.1), (2.0, 0.3, 0.1))
    assert causes([*gaps, gaps[-1]], spells, 1.5) == {Doing.PICTURE.value: 1}


def test_nothing_is_late_of_nothing() -> None:
    assert not causes([], [], 1.0)
