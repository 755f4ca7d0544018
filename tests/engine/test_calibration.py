"""Calibration teaches the cost model what steps cost, quickly, and leaves nothing behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from server.engine import calibration, scheduler
from server.engine.calibration import LIMIT_S, calibrate
from server.engine.cost_model import NUM_STEPS_TRUSTED_BLINDLY, Load
from server.engine.link import LocalLink
from server.engine.options import EngineOptions
from server.engine.process import load_engine
from server.messages import ImageParams, ImageSegment, OutputMode, Picture, Request, SamplingParams, Segment, TextSegment

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
LONGEST_STEP_S = 5.0
FIRST_STEP, FIRST_STEP_S = Load(1, 1, 1, 4, 4, 64, 1, encoded_pixels=512), 20.0
DECODE_STEP, PROMPT_STEP, DENOISE_STEP = (
    Load(und_tokens=1, pairs=40, rows=1, keys=40),
    Load(1, 1, und_tokens=64, pairs=2080, rows=1, keys=64),
    Load(1, 1, 1, 4, 32, 2000, 2, keys=80),
)
LEAST_STEP_S = 1e-5
"""What is taken for nothing costs less; any step of the tiny model takes tens of times as long."""
LARGEST_FACTOR = 3.0
"""So far may foresight be off on a machine that others use; it was off a hundredfold."""


def test_it_teaches_every_kind_of_step_within_its_time_and_leaves_nothing_running() -> None:
    loaded = load_engine(EngineOptions(str(CHECKPOINT), num_pages=512), LocalLink())
    started = time.monotonic()

    calibrate(loaded.scheduler, loaded.runner, loaded.pool, loaded.model.config)

    cost = loaded.scheduler.costs.alone
    assert time.monotonic() - started < LIMIT_S + LONGEST_STEP_S
    assert cost.num_observed > NUM_STEPS_TRUSTED_BLINDLY
    # Not each term of it: where other programs had the machine meanwhile, one may stand for another.
    assert all(cost.predict(load) > LEAST_STEP_S for load in (DECODE_STEP, PROMPT_STEP, DENOISE_STEP))
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


def test_what_reading_and_drawing_a_picture_take_is_foreseen_before_the_first_client_asks() -> None:
    """Calibration once read no pictures: what a start's very first step took, kernels built, was held for the price of its few pixels."""
    link = LocalLink()
    loaded = load_engine(EngineOptions(str(CHECKPOINT), num_pages=512), link)
    loaded.scheduler.costs.alone.observe(FIRST_STEP, FIRST_STEP_S)
    calibrate(loaded.scheduler, loaded.runner, loaded.pool, loaded.model.config)
    vit, vae = (Picture(side, side, bytes(3 * side * side)) for side in (56, 64))
    segments: list[Segment] = [ImageSegment(vit, vae), TextSegment([1])]
    loaded.engine.submit(Request("edit", segments, OutputMode.IMAGE, SamplingParams(), ImageParams(64, 64)))

    while loaded.scheduler.has_work:
        loaded.engine.step()

    steps = [report.stats for report in link.reports]
    assert sum(step.predicted_s for step in steps) < LARGEST_FACTOR * sum(step.step_s for step in steps)
