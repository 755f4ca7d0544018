"""Every command from end to end on a tiny model: real engines, real files, in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from loadtests.mixed.__main__ import main as mixed
from loadtests.simulate.__main__ import main as simulate
from loadtests.simulate.validate import LARGEST_ERROR
from loadtests.traces.sessions import read_trace

TINY = ["--model", "tiny", "--mix", "tiny", "--pages", "512"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of everything `loadtests.mixed all` found."""
    out = tmp_path_factory.mktemp("mixed")
    options = ["--sessions", "8", "--rounds", "1", "--seconds", "2", "--targets", "4", "--chats", "1", "--side", "64", "--threads", "1"]
    assert mixed(["all", *TINY, "--out", str(out), *options]) == 0
    return out


def test_the_comparison_answers_every_request_in_both_ways(measured: Path) -> None:
    outcomes = json.loads((measured / "compare.json").read_text())["outcomes"]
    assert {(outcome["way"], outcome["load"]) for outcome in outcomes} == {(w, load) for w in ("plait", "staged") for load in (0.8, 0.1)}
    for outcome in outcomes:
        measures = outcome["measures"]
        assert measures["num_failed"] == 0
        assert measures["num_requests"] >= 8
        assert 0 < measures["fairness"] <= 1


def test_the_traces_that_were_served_are_kept(measured: Path) -> None:
    traces = [read_trace(path) for path in measured.glob("trace-*.jsonl")]
    assert [len(trace.sessions) for trace in traces] == [8, 8]


def test_tables_and_plots_are_written(measured: Path) -> None:
    assert "| between words, p99 (ms) |" in (measured / "compare.md").read_text()
    assert "p99 / target" in (measured / "target.md").read_text()
    for name in ("load-80.svg", "load-10.svg", "target.svg"):
        root = ElementTree.fromstring((measured / name).read_text())
        assert root.findall(".//{http://www.w3.org/2000/svg}polyline")


def test_the_second_turn_prefills_only_what_is_new_with_the_cache(measured: Path) -> None:
    without, cached = json.loads((measured / "second_turn.json").read_text())
    assert (without["has_prefix_cache"], cached["has_prefix_cache"]) == (False, True)
    assert cached["second_turn_prefilled"] < without["second_turn_prefilled"] / 2


def test_the_sweep_runs_with_a_target_and_without_one_before_and_after(measured: Path) -> None:
    (kept,) = json.loads((measured / "target.json").read_text())
    assert kept["multiple"] == 4.0
    assert all(one["euler_steps_per_s"] > 0 for one in (kept, kept["before"], kept["after"]))


def test_fleets_are_planned_with_the_measured_costs(measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs = ["--costs", str(measured / "costs.json"), "--out", str(tmp_path)]
    assert simulate(["plan", *TINY, *costs, "--sessions-per-s", "20", "--minutes", "0.2"]) == 0
    assert "The knee" in capsys.readouterr().out
    assert simulate(["scale", *TINY, *costs, "--replicas", "1", "8", "--minutes", "0.2"]) == 0
    fleets = json.loads((tmp_path / "scale.json").read_text())
    assert [(one["num_replicas"], one["router"]) for one in fleets] == [
        (size, router) for size in (1, 8) for router in ("least-loaded", "prefix-affine")
    ]


def test_the_comparison_runs_in_virtual_time(measured: Path, tmp_path: Path) -> None:
    options = ["--costs", str(measured / "costs.json"), "--out", str(tmp_path), "--sessions", "10", "--rounds", "1"]
    assert simulate(["compare", *TINY, *options]) == 0
    first = (tmp_path / "compare.json").read_text()
    assert simulate(["compare", *TINY, *options]) == 0
    assert (tmp_path / "compare.json").read_text() == first


def test_the_validation_states_the_error_of_every_metric_and_fails_where_one_is_too_large(tmp_path: Path) -> None:
    options = ["--sessions", "8", "--rounds", "1", "--threads", "1"]
    status = simulate(["validate", *TINY, "--out", str(tmp_path), *options])
    (compared,) = json.loads((tmp_path / "validate.json").read_text()).values()
    assert all(one["real"] > 0 and one["low"] <= one["fine"] <= one["high"] for one in compared)
    assert status == any(abs(one["fine"] / one["real"] - 1) > LARGEST_ERROR for one in compared)
    page = (tmp_path / "validate.md").read_text()
    assert "| error |" in page
    assert ("all but" in page) == status
