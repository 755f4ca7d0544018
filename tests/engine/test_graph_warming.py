"""Decode steps captured before the first client comes: which, how many, and when to stop."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

import pytest

from server.engine.batch import Batch, DecodeRow, Draw
from server.engine.decode_graphs import Replay
from server.engine.graph_sizes import ROWS
from server.engine.graph_warming import LIMIT_S, warm_graphs
from server.engine.link import LocalLink
from server.engine.options import EngineOptions
from server.engine.process import capture_decodes, load_engine, warm_up
from server.messages import SamplingParams, TextSegment
from tests.engine.fakes import make_request

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"


class Capturing:
    """Captures steps of up to so many rows, and remembers of how many."""

    def __init__(self, most: int = ROWS[-1]) -> None:
        self.most = most
        self.rows: list[int] = []

    def capture(self, batch: Batch) -> bool:
        assert not batch.prefills and not batch.denoises
        if len(batch.decodes) > self.most:
            return False
        self.rows.append(len(batch.decodes))
        return True


def warmed(runner: Capturing, max_running: int, *, room_for: int = 100, seconds_each: float = 0.1) -> list[tuple[int, int]]:
    """Warm, and return what was reported."""
    told: list[tuple[int, int]] = []
    times = count()

    def has_room() -> bool:
        return len(runner.rows) < room_for

    warm_graphs(runner, max_running, has_room, lambda done, total: told.append((done, total)), lambda: seconds_each * next(times))
    return told


@pytest.mark.parametrize(("max_running", "largest"), [(1, 1), (5, 8), (24, 24), (100, 128), (1000, 128)])
def test_every_number_of_rows_that_can_run_is_captured_the_largest_first(max_running: int, largest: int) -> None:
    runner = Capturing()
    told = warmed(runner, max_running)
    assert runner.rows == [rows for rows in reversed(ROWS) if rows <= largest]
    assert told == [(k + 1, len(runner.rows)) for k in range(len(runner.rows))]


def test_it_stops_when_the_time_is_up() -> None:
    runner = Capturing()
    warmed(runner, 128, seconds_each=LIMIT_S / 3)
    assert runner.rows == [128, 96]


def test_it_stops_when_there_is_no_room() -> None:
    runner = Capturing()
    assert warmed(runner, 128, room_for=3)[-1] == (3, len(ROWS))
    assert runner.rows == [128, 96, 64]


def test_it_stops_where_nothing_can_be_captured() -> None:
    assert warmed(Capturing(most=0), 128) == []


def test_a_warmed_engine_captures_nothing_while_it_serves_and_says_how_far_it_is() -> None:
    num_captured = 0

    def capture(work: Replay) -> Replay:
        nonlocal num_captured
        num_captured += 1
        return lambda: work()

    answers = []
    for is_warmed in (False, True):
        link, options = LocalLink(), EngineOptions(str(CHECKPOINT), num_pages=64, num_threads=1, max_running=4)
        loaded = load_engine(options, link)
        if is_warmed:
            loaded.runner.capture_decodes(capture)
            capture_decodes(loaded, options, link)
            assert [(told.graphs_done, told.graphs_total) for told in link.progress[-3:]] == [(1, 3), (2, 3), (3, 3)]
        warm_up(loaded)
        for k in range(3):
            sampling = SamplingParams(max_tokens=6 + k, ignore_eos=True)
            loaded.engine.submit(make_request(f"{k}", [TextSegment(list(range(20, 30 + k)))], sampling=sampling))
        while loaded.scheduler.has_work:
            loaded.engine.step()
        answers.append([token.token_id for report in link.reports for token in report.tokens])
    assert answers[0] == answers[1] and len(answers[0]) == 6 + 7 + 8
    assert num_captured == 3


def test_the_first_step_is_not_credited_with_what_was_captured_before_it() -> None:
    """It took less than no time, and steps of negative length turned the order of the tenants round."""

    def capture(work: Replay) -> Replay:
        deadline_s = time.perf_counter() + 0.2
        while time.perf_counter() < deadline_s:
            work()
        return work

    options = EngineOptions(str(CHECKPOINT), num_pages=64, num_threads=1, max_running=1)
    loaded = load_engine(options, LocalLink())
    loaded.runner.capture_decodes(capture)
    capture_decodes(loaded, options, LocalLink())
    row = DecodeRow(0, [0], 0, 0, 0, Draw(SamplingParams(), 0, ()))
    assert loaded.runner.execute(Batch(decodes=[row])).execute_s > 0.0
