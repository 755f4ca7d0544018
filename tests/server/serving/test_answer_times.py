"""What the histograms say of an answer: from the door to the first words, from token to token, and nothing twice after a takeover."""

from __future__ import annotations

import time
from collections.abc import Callable

from server.messages import FinishReason, TextClosed, TokenOutput, Usage
from server.metrics import Metrics
from server.serving.answer_times import AnswerTimes
from server.serving.events import FinishedEvent, PreviewEvent, TextEvent

PREVIEW = PreviewEvent(0, 0, preview=0, step=1, num_steps=8, webp=b"")


def at_once(then: Callable[[], None]) -> None:
    then()


def counted(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value(f"plait_{name}_seconds_count") or 0.0


def summed(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value(f"plait_{name}_seconds_sum") or 0.0


def test_the_first_words_are_counted_from_the_arrival_and_once_for_each_answer() -> None:
    metrics = Metrics()
    times = AnswerTimes(metrics, time.monotonic() - 5.0, [], at_once)
    for choice in (0, 0, 1, 1):
        times.observe_event(TextEvent(choice, 0, "a"))
    assert counted(metrics, "time_to_first_token") == 2
    assert 10.0 <= summed(metrics, "time_to_first_token") < 11.0


def test_first_words_count_until_they_have_gone_out() -> None:
    """A store may take its time to keep them, and a client sees nothing before."""
    metrics = Metrics()
    going_out: list[Callable[[], None]] = []
    times = AnswerTimes(metrics, time.monotonic(), [], going_out.append)
    times.observe_event(TextEvent(0, 0, "a"))
    assert counted(metrics, "time_to_first_token") == 0
    (gone,) = going_out
    gone()
    assert counted(metrics, "time_to_first_token") == 1


def test_a_token_that_makes_no_words_yet_is_a_token_all_the_same() -> None:
    """Half a character is held back; gaps of pieces of text would be longer than gaps of tokens, which is what clients count."""
    metrics = Metrics()
    times = AnswerTimes(metrics, time.monotonic(), [], at_once)
    for _ in range(4):
        times.observe_output(0, TokenOutput("r", 1))
    assert counted(metrics, "inter_token") == 3


def test_a_picture_between_two_texts_is_no_gap_between_tokens() -> None:
    metrics = Metrics()
    times = AnswerTimes(metrics, time.monotonic(), [], at_once)
    for output in (TokenOutput("r", 1), TextClosed("r"), TokenOutput("r", 2)):
        times.observe_output(0, output)
    assert counted(metrics, "inter_token") == 0


def test_the_first_preview_is_counted_once() -> None:
    metrics = Metrics()
    times = AnswerTimes(metrics, time.monotonic(), [], at_once)
    times.observe_event(PREVIEW)
    times.observe_event(PREVIEW)
    assert counted(metrics, "time_to_first_preview") == 1


def test_what_was_said_before_a_takeover_is_not_counted_again() -> None:
    metrics = Metrics()
    times = AnswerTimes(metrics, time.monotonic() - 3.0, [(0, TokenOutput("r", 1))], at_once)
    times.observe_output(0, TokenOutput("r", 2))
    times.observe_event(TextEvent(0, 0, "b"))
    times.observe_event(FinishedEvent(0, FinishReason.STOP, Usage()))
    assert (counted(metrics, "time_to_first_token"), counted(metrics, "inter_token")) == (0, 0)
    assert summed(metrics, "e2e_request") >= 3.0
