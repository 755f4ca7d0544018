"""The report of what rounding and leaving out cost: nothing where nothing is done, something where it is; on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from loadtests.fidelity.__main__ import main
from loadtests.psnr import psnr_db


def test_each_way_is_compared_with_the_plain_one(tmp_path: Path) -> None:
    out = tmp_path / "fidelity.json"
    assert main(["--model", "tiny", "--side", "32", "--timesteps", "9", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    plain, *others = report["pictures"]
    assert (plain["rows"], plain["latents_error"], plain["psnr_db"]) == (16, 0.0, 99.0)
    assert plain["velocity_errors"] == [0.0] * 8
    assert all(0 < other["latents_error"] < 1 and other["psnr_db"] < 99 for other in others)
    by_cache = {tuple(other["step_cache"]): other["rows"] for other in others if other["step_cache"]}
    assert by_cache[2, 1] == 2 * 7, "of 8 steps the first five, the seventh and the last"
    assert all(0 < layer["added"] < 0.2 for layer in report["layers"])


def test_a_difference_of_one_grey_level_is_48_db() -> None:
    """20 log10(255 / 1)."""
    black, grey = (np.full((1, 2, 3), value, dtype=np.uint8) for value in (0, 1))
    assert psnr_db(grey, black) == pytest.approx(48.13, abs=0.01)
    assert psnr_db(grey, grey) == 99.0
