"""The host's own work is timed on steady steps that hold what they should, and all of it is in the parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests.host_steps import FOR_THEMSELVES, PARTS, Case, main, measure


def test_the_command_prints_a_table_and_keeps_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--case", "1", "--steps", "12", "--out", str(tmp_path / "host.json")]) == 0
    assert capsys.readouterr().out.startswith("| us | schedule | launch |")
    (figures,) = json.loads((tmp_path / "host.json").read_text()).values()
    assert figures.keys() == {*PARTS, *FOR_THEMSELVES}
    assert all(us > 0.0 for us in figures.values())


def test_requests_wait_while_steps_are_timed() -> None:
    """Each step says how many rows it had and how many wait: see `measure`."""
    assert measure(Case(2, num_waiting=3), 8)["step"] > 0.0


def test_answers_with_penalties_go_on_from_what_is_written() -> None:
    assert measure(Case(2, num_written=20), 8)["draws"] > 0.0
