"""Calibration teaches the cost model what steps cost, quickly, and leaves nothing behind."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from server.engine import calibration, scheduler
from server.engine.calibration import LIMIT_S, calibrate
from server.engine.cost_model import NUM_STEPS_TRUSTED_BLINDLY, CostModel, Load
from server.engine.link import LocalLink
from server.engine.options import EngineOptions
from server.engine.process import load_engine
from server.messages import ImageParams, ImageSegment, OutputMode, Picture, Request, SamplingParams, Segment, TextSegment

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
STEP_S = 0.1
"""How long every step takes by the clock of some tests here."""
FIRST_STEP, FIRST_STEP_S = Load(1, 1, 1, 4, 4, 64, 1, encoded_pixels=512), 20.0
LARGEST_FACTOR = 3.0
"""So far may foresight be off on a machine that others use; it was off a hundredfold."""


def stepping_clock() -> Callable[[], float]:
    """Return a clock that is looked at once a step."""
    ticks = itertools.count()
    return lambda: next(ticks) * STEP_S


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> list[Load]:
    """The loads of which the cost model is told."""
    loads: list[Load] = []
    observe = CostModel.observe

    def noted(cost: CostModel, load: Load, seconds: float) -> None:
        loads.append(load)
        observe(cost, load, seconds)

    monkeypatch.setattr(CostModel, "observe", noted)
    return loads


def test_it_teaches_every_kind_of_step_and_leaves_nothing_running(taught: list[Load]) -> None:
    loaded = load_engine(EngineOptions(str(CHECKPOINT), num_pages=512), LocalLink())

    calibrate(loaded.scheduler, loaded.runner, loaded.pool, loaded.model.config, clock=lambda: 0.0)

    assert loaded.scheduler.costs.alone.num_observed > NUM_STEPS_TRUSTED_BLINDLY
    assert any(not load.mixed for load in taught), "words"
    assert any(load.mixed and not load.gen_steps for load in taught), "prompts"
    assert any(load.gen_steps and not load.decoded_pixels for load in taught), "Euler steps"
    assert any(load.encoded_pixels for load in taught) and any(load.decoded_pixels for load in taught), "pictures read and drawn"
    assert not loaded.scheduler.has_work
    assert loaded.pool.num_used == 0


def test_it_ends_when_its_time_is_up(taught: list[Load]) -> None:
    loaded = load_engine(EngineOptions(str(CHECKPOINT), num_pages=512), LocalLink())

    calibrate(loaded.scheduler, loaded.runner, loaded.pool, loaded.model.config, clock=stepping_clock())

    assert 0 < len(taught) <= LIMIT_S / STEP_S + 1
    assert not loaded.scheduler.has_work


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
    calibrate(loaded.scheduler, loaded.runner, loaded.pool, loaded.model.config, clock=lambda: 0.0)
    vit, vae = (Picture(side, side, bytes(3 * side * side)) for side in (56, 64))
    segments: list[Segment] = [ImageSegment(vit, vae), TextSegment([1])]
    loaded.engine.submit(Request("edit", segments, OutputMode.IMAGE, SamplingParams(), ImageParams(64, 64)))

    while loaded.scheduler.has_work:
        loaded.engine.step()

    steps = [report.stats for report in link.reports]
    assert sum(step.predicted_s for step in steps) < LARGEST_FACTOR * sum(step.step_s for step in steps)
