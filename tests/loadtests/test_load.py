"""Load tests measure what a person waits for: streams taken apart as they come, knees and capacities, a real ramp."""

from __future__ import annotations

import base64
import io
import itertools
import json
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loadtests.load.asks import AskSource, Effort, Scenario, plain_picture
from loadtests.load.leftovers import left_behind
from loadtests.load.levels import Level, Ramp, ServiceLevel, Wait
from loadtests.load.report import write_report
from loadtests.load.streaming import events, read_answer
from tests.server.api.chats import hello
from tests.server.running_front import running_front
from tests.server.scripted_engine import ScriptedEngine

ROOT = Path(__file__).parents[2]
PROMISE = ServiceLevel(first_words_s=1.0, between_words_s=0.2, first_picture_s=5.0)


class Clock:
    """Moves on by a second at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def chunk(**delta: object) -> bytes:
    return b"id: 1\r\ndata: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\r\n\r\n"


STREAM = chunk(content="a") + b": ping\n\n" + chunk(content="b") + chunk(images=[{"index": 0}]) + chunk(content="c") + b"data: [DONE]\n\n"


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_do_not_depend_on_how_the_network_cuts_the_stream(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in itertools.pairwise(places)]
    assert list(events(pieces)) == list(events([STREAM]))


def test_words_pictures_and_the_end_are_timed_from_the_request() -> None:
    timings = read_answer([STREAM], Clock(), started=0.0)
    assert (timings.first_text_s, timings.first_picture_s, timings.num_pictures, timings.is_complete) == (1.0, 3.0, 1, True)


def test_the_time_over_a_picture_is_no_gap_between_words() -> None:
    assert read_answer([STREAM], Clock(), started=0.0).gaps == [1.0]


def test_a_stream_that_breaks_off_is_not_complete() -> None:
    assert not read_answer([chunk(content="a")], Clock(), started=0.0).is_complete


def test_an_error_in_the_stream_is_named() -> None:
    timings = read_answer([chunk(content="a"), b'data: {"error": {"code": "server_error"}}\n\n'], Clock(), started=0.0)
    assert (timings.is_complete, timings.error) == (False, "server_error")


def test_equal_seeds_ask_for_equal_work() -> None:
    for scenario in Scenario:
        first, second = (AskSource("m", 7, Effort()).draw(scenario) for _ in range(2))
        assert first == second
        assert ("image" in first.body) is (scenario is not Scenario.CHAT)


def test_the_picture_to_edit_is_a_picture() -> None:
    encoded = base64.b64decode(plain_picture("red").partition(",")[2])
    assert Image.open(io.BytesIO(encoded)).getpixel((5, 5)) == (220, 40, 40)


def level(users: int, answers: int, first_words: float, failures: int = 0) -> Level:
    return Level(users, 10.0, answers, failures, [Wait("chat", "first words", answers, first_words, first_words, first_words)])


def ramp(*levels: Level) -> Ramp:
    return Ramp("plait", "mixed", "a machine", PROMISE, list(levels))


def test_the_knee_is_where_more_users_bring_no_more_answers() -> None:
    measured = ramp(level(1, 10, 0.1), level(2, 20, 0.1), level(4, 30, 0.3), level(8, 31, 2.0))
    assert measured.knee.users == 4


def test_capacity_is_the_best_level_that_keeps_the_promise() -> None:
    measured = ramp(level(1, 10, 0.1), level(2, 20, 0.9), level(4, 30, 1.1))
    assert measured.capacity == measured.levels[1]
    assert ramp(level(1, 10, 0.1, failures=1)).capacity is None


def test_a_ramp_is_read_back_as_it_was_stored_and_reported_with_a_plot(tmp_path: Path) -> None:
    measured = ramp(level(1, 10, 0.1), level(2, 12, 2.0))
    measured.save(tmp_path / "ramp.json")
    assert Ramp.load(tmp_path / "ramp.json") == measured
    write_report([measured], tmp_path / "report")
    text = (tmp_path / "report.md").read_text()
    assert "**Capacity at it: 1.00 answers/s with 1 users.**" in text and "| 2 | 12 | 0 | 1.20 |" in text
    assert (tmp_path / "report.svg").read_text().count("<polyline") == 4


def test_what_a_soak_leaves_behind_is_named() -> None:
    assert left_behind("plait_pages_used 3.0\nplait_requests_in_flight 0.0\nplait_pages_total 9.0") == {"plait_pages_used": 3.0}


def test_a_ramp_against_nobody_ends_with_one_line(tmp_path: Path) -> None:
    """It printed tracebacks, then "0 failed" and a knee, and exited with 0."""
    command = [
        sys.executable,
        "-m",
        "loadtests.load.ramp",
        "--url",
        "http://127.0.0.1:9",
        "--users",
        "1",
        "--seconds",
        "2",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("http://127.0.0.1:9 cannot be reached") and "Traceback" not in done.stderr


def test_a_ramp_over_a_real_front_reports_its_levels(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtests.load.ramp", "--scenario", "chat", "--users", "1", "2", "--seconds", "4", "--out", "ramp"]
    with running_front(ScriptedEngine(hello)) as front:
        done = subprocess.run(
            [*command, "--url", front.url], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stdout + done.stderr
    measured = Ramp.load(tmp_path / "ramp.json")
    assert [entry.users for entry in measured.levels] == [1, 2]
    assert all(entry.failures == 0 and entry.answers > 0 for entry in measured.levels)
    assert {wait.kind for wait in measured.levels[0].waits} >= {"first words", "whole answer"}


def test_users_that_begin_at_once_ask_different_things(tmp_path: Path) -> None:
    """They once had all the same number: each asked what all others asked at that moment, which no router and no cache ever sees."""
    scenarios = str(ROOT / "loadtests" / "load" / "users.py")
    command = [sys.executable, "-m", "locust", "-f", scenarios, "ChatUser", "--headless", "-u", "8", "-r", "8", "-t", "4s"]
    engine = ScriptedEngine(hello)
    with running_front(engine) as front:
        subprocess.run(
            [*command, "--host", front.url], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=120, check=True
        )
    assert len({repr(request.segments) for request in engine.requests[:8]}) >= 6


def test_locust_runs_the_scenarios_by_name(tmp_path: Path) -> None:
    scenarios = str(ROOT / "loadtests" / "load" / "users.py")
    command = [sys.executable, "-m", "locust", "-f", scenarios, "ChatUser", "--headless", "-u", "1", "-t", "2s"]
    with running_front(ScriptedEngine(hello)) as front:
        done = subprocess.run(
            [*command, "--host", front.url], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "first words" in done.stderr + done.stdout


def test_a_burst_ends_when_its_time_is_over(tmp_path: Path) -> None:
    """Locust leaves that to the shape of a load; ours went on for ever, whatever ``-t`` said."""
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "load" / "burst.py"), "--headless", "-t", "2s"]
    with running_front(ScriptedEngine(hello)) as front:
        done = subprocess.run(
            [*command, "--host", front.url], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
        )
    assert "Shape test completed" in done.stderr, done.stderr
