"""Calibration teaches the cost model what steps cost, quickly, and leaves nothing behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from server.engine import calibration, scheduler
from server.engine.calibration import LIMIT_S, calibrate
from server.engine.cost_model import NUM_STEPS_TRUSTED_BLINDLY
from server.engine.link import LocalLink
from server.engine.options import EngineOptions
from server.engine.process import load_engine

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
LONGEST_STEP_S = 5.0


def test_it_teaches_every_kind_of_step_within_its_time_and_leaves_nothing_running() -> None:
    loaded = load_engine(EngineOptions(str(CHECKPOINT), num_pages=512), LocalLink())
    started = time.monotonic()

    calibrate(loaded.scheduler, loaded.runner, loaded.pool, loaded.model.config)

    cost = loaded.scheduler.cost
    assert time.monotonic() - started < LIMIT_S + LONGEST_STEP_S
    assert cost.num_observed > NUM_STEPS_TRUSTED_BLINDLY
    assert cost.coefficients.steps > 0.0
    assert not loaded.scheduler.has_work
    assert loaded.pool.num_used == 0


def test_cut_short_within_a_long_step_it_leaves_nothing_running_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine so slow that the time is up while a step that can be left, as every one here, is under way."""
    monkeypatch.setattr(scheduler, "POLL_S", 0.0)
    options = EngineOptions(str(CHECKPOINT), num_pages=512, inter_token_target_s=1e-6, min_target_decodes=0.0)
    loaded = load_engine(options, LocalLink())
    for limit_ms in range(0, 80, 4):
        monkeypatch.setattr(calibration, "LIMIT_S", limit_ms / 1e3)
        calibrate(loaded.scheduler, loaded.runner, loaded.pool, loaded.model.config)
        assert not loaded.scheduler.has_work
        assert not loaded.scheduler.take_outputs().finished
        assert loaded.pool.num_used == 0
