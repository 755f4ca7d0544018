"""Step caching in the engine: what is foreseen takes no rows, and what is drawn is what the rules say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.step_cache_rules import StepCache
from server.engine.batch import Batch, BatchResult, DenoiseRow, DenoiseStep
from server.engine.drawing import Drawing
from server.engine.guidance import Branch, BranchPlan
from server.engine.image_steps import EulerStep, plan_steps
from server.engine.link import LocalLink
from server.engine.loop import DividedPass, Engine
from server.engine.options import EngineOptions
from server.engine.process import load_engine
from server.messages import ImageParams, OutputMode, Request, SamplingParams, StepReport, TextSegment

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
NUM_STEPS = 13
PLAIN = ImageParams(32, 48, num_timesteps=NUM_STEPS + 1, interval=(0.0, 1.0), seed=3, num_previews=3)
EVERY_THIRD = StepCache(3, num_first=3)
COMPUTED = [0, 1, 2, 5, 8, 11, 12]
BRANCHES = BranchPlan([[], []], {Branch.FULL: 0, Branch.NO_TEXT: 1})


class Recorder:
    """Runs what it is given, keeps the batches and, of each sequence, the latents its last picture ended with."""

    def __init__(self, engine_options: EngineOptions, link: LocalLink) -> None:
        self.loaded = load_engine(engine_options, link)
        self.batches: list[Batch] = []
        self.latents: dict[int, torch.Tensor] = {}

    def execute(self, batch: Batch) -> BatchResult:
        self.batches.append(batch)
        result = self.loaded.runner.execute(batch)
        for step in batch.denoises:
            self.latents[step.sequence_id] = self.loaded.runner.latents(step.sequence_id)
        return result

    def begin(self, batch: Batch) -> DividedPass:
        raise AssertionError("without an inter-token target no pass is divided")

    def forget(self, sequence_ids: list[int]) -> None:
        self.loaded.runner.forget(sequence_ids)


def draw(*images: ImageParams) -> tuple[Recorder, list[StepReport]]:
    """Draw each image for a request of its own, all at once."""
    link = LocalLink()
    recorder = Recorder(EngineOptions(str(CHECKPOINT), num_pages=512), link)
    loaded = recorder.loaded
    engine = Engine(loaded.scheduler, recorder, loaded.pool, link)
    for number, image in enumerate(images):
        request = Request(f"r{number}", [TextSegment([5, 6])], OutputMode.IMAGE, SamplingParams(), image, wants_progress=True)
        engine.submit(request)
    while loaded.scheduler.has_work:
        engine.step()
    return recorder, list(link.reports)


def test_a_step_that_is_foreseen_has_no_rows() -> None:
    recorder, reports = draw(replace(PLAIN, step_cache=EVERY_THIRD))

    steps = [step for batch in recorder.batches for step in batch.denoises]
    assert [step.eulers[0].number for step in steps] == COMPUTED
    assert [len(step.rows) for step in steps] == [2] * len(COMPUTED)
    assert [[euler.number for euler in step.eulers] for step in steps[2:]] == [[2, 3, 4], [5, 6, 7], [8, 9, 10], [11], [12]]
    assert sum(report.stats.num_denoise_rows for report in reports) == 2 * len(COMPUTED)
    assert sum(report.stats.num_branches_foreseen for report in reports) == 2 * (NUM_STEPS - len(COMPUTED))


def test_every_step_is_told_in_order_and_previews_come_where_they_belong() -> None:
    _, reports = draw(replace(PLAIN, step_cache=EVERY_THIRD))

    assert [progress.step for report in reports for progress in report.progress] == list(range(1, NUM_STEPS + 1))
    assert [preview.step for report in reports for preview in report.previews] == [3, 6, 9]
    assert [image.index for report in reports for image in report.images] == [0]


def test_steps_foreseen_by_order_0_go_on_along_the_same_velocity() -> None:
    """One evaluation for three steps: x <- x - v (dt_0 + dt_1 + dt_2)."""
    x, velocity = torch.randn(6, 4), torch.randn(6, 4)
    euler = [EulerStep(number, 1.0 - 0.1 * number, 0.1, {Branch.FULL: 0}, (0,) if number == 0 else ()) for number in range(3)]
    params = replace(PLAIN, step_cache=StepCache(3, order=0, num_first=1))
    step = DenoiseStep(1, [DenoiseRow(1, 0, [], 0, 0)], euler, params, is_last=False, num_row_tokens=8)

    drawing = Drawing(x).after(step, {0: velocity}, watch=lambda euler, x_t, velocity: None)

    torch.testing.assert_close(drawing.latents, x - 0.3 * velocity)


def test_a_cached_picture_beside_others_is_the_same_as_alone() -> None:
    cached, other = replace(PLAIN, step_cache=EVERY_THIRD), replace(PLAIN, seed=4, num_timesteps=7)
    alone, _ = draw(cached)
    together, _ = draw(other, cached, replace(cached, step_cache=StepCache(2, order=2, num_first=1)))
    plain, _ = draw(PLAIN)

    assert torch.equal(together.latents[1], alone.latents[0])
    assert not torch.equal(plain.latents[0], alone.latents[0])


def test_when_every_step_is_among_the_first_nothing_changes() -> None:
    cached, _ = draw(replace(PLAIN, step_cache=StepCache(2, num_first=NUM_STEPS)))
    plain, _ = draw(PLAIN)

    assert torch.equal(cached.latents[0], plain.latents[0])


@pytest.mark.parametrize(
    ("interval", "computed"),
    [
        ((0.0, 1.0), [(0, 1), (0, 1), (), (0, 1), (), (0, 1)]),
        ((0.45, 1.0), [(0, 1), (0, 1), (), (0,), (), (0,)]),
        ((0.0, 0.85), [(0,), (0,), (1,), (0, 1), (), (0, 1)]),
    ],
)
def test_each_context_has_a_counter_of_its_own(interval: tuple[float, float], computed: list[tuple[int, ...]]) -> None:
    """Where guidance sets in at the third step, its context's first two evaluations are computed there."""
    params = replace(PLAIN, interval=interval, step_cache=StepCache(2, num_first=2))
    steps = plan_steps(params, [1.0, 0.9, 0.8, 0.4, 0.3, 0.1], [0.1] * 6, BRANCHES)
    assert [step.computed for step in steps] == computed
