"""The figures of a replay, against cases worked out by hand."""

from __future__ import annotations

import math

import pytest

from loadtests.percentile import percentile
from loadtests.replays.measures import jain, measure
from loadtests.replays.timeline import Record, Replayed
from loadtests.traces.sessions import Kind
from server.messages import FinishReason


def chat(arrival_s: float, token_times: list[float], tenant: str = "amber", alone_s: float = 1.0) -> Record:
    finish_s = token_times[-1]
    return Record("c", Kind.CHAT, tenant, arrival_s, [token_times], [], 0, finish_s, alone_s, FinishReason.LENGTH)


def picture(arrival_s: float, picture_s: float, num_latents: int, tenant: str = "amber", alone_s: float = 1.0) -> Record:
    kind = Kind.TEXT_TO_IMAGE
    return Record("p", kind, tenant, arrival_s, [[]], [picture_s], num_latents, picture_s, alone_s, FinishReason.STOP)


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, percent) for percent in (1, 20, 21, 50, 99, 100)] == [1.0, 1.0, 2.0, 3.0, 5.0, 5.0]
    assert math.isnan(percentile([], 50))


def test_jains_index_is_one_when_all_are_equal_and_one_over_n_when_one_has_all() -> None:
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([1.0, 2.0]) == pytest.approx(9 / 10)


def test_throughput_counts_words_and_latents_over_the_span_of_the_work() -> None:
    measures = measure([Replayed([chat(1.0, [2.0, 3.0]), picture(2.0, 5.0, 16)], [])])
    assert measures.span_s == 4.0
    assert (measures.tokens_per_s, measures.pictures_per_s, measures.weighted_per_s) == (0.5, 0.25, 4.5)


def test_waiting_times_run_from_the_arrival_not_from_when_the_server_looked() -> None:
    measures = measure([Replayed([chat(1.0, [2.0, 2.5]), chat(2.0, [5.0, 6.5]), picture(0.0, 4.0, 16)], [])])
    assert (measures.first_token_mean_s, measures.first_token_p99_s) == (2.0, 3.0)
    assert (measures.gap_p50_s, measures.gap_p99_s) == (0.5, 1.5)
    assert (measures.first_picture_mean_s, measures.first_picture_p99_s) == (4.0, 4.0)


def test_a_picture_between_two_texts_is_no_gap_between_words() -> None:
    story = chat(0.0, [1.0, 2.0])
    story.texts.append([10.0, 11.0])
    assert story.gaps_s == [1.0, 1.0]


def test_slowdown_is_latency_over_latency_alone_by_lane_and_tenant() -> None:
    records = [chat(0.0, [1.0, 2.0], "amber"), chat(0.0, [4.0], "birch", alone_s=2.0), picture(0.0, 6.0, 16, "birch")]
    measures = measure([Replayed(records, [])])
    assert measures.slowdown_by_lane == {"picture": 6.0, "text": 2.0}
    assert measures.slowdown_by_tenant == {"amber": 2.0, "birch": 4.0}
    assert measures.fairness == pytest.approx(36 / 40)


def test_replays_of_one_load_add_up() -> None:
    measures = measure([Replayed([chat(0.0, [1.0, 2.0])], []), Replayed([chat(0.0, [1.0, 4.0])], [])])
    assert (measures.num_requests, measures.span_s) == (2, 6.0)
    assert measures.tokens_per_s == pytest.approx(4 / 6)


def test_a_request_that_ended_in_an_error_is_counted() -> None:
    failed = chat(0.0, [1.0])
    failed.reason = FinishReason.ERROR
    assert measure([Replayed([failed, chat(0.0, [1.0])], [])]).num_failed == 1
