"""Numbers that are not finite end the request they belong to, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from server.engine.batch import Batch, BatchResult
from server.engine.launched_step import LaunchedStep
from server.engine.link import LocalLink
from server.engine.loop import DividedPass, Engine
from server.engine.options import EngineOptions, SchedulerLimits
from server.engine.pages import PagePool
from server.engine.process import load_engine
from server.engine.runner import seeded_noise
from server.engine.scheduler import Scheduler
from server.messages import FinishReason, ImageParams, OutputMode, SamplingParams, TextSegment
from tests.engine.fakes import FakeRunner, facts, make_request, refeed

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
BAD_SEED = 13


def noise_with_a_bad_seed(seed: int, image_index: int, num_tokens: int, channels: int) -> torch.Tensor:
    noise = seeded_noise(seed, image_index, num_tokens, channels)
    return noise * float("nan") if seed == BAD_SEED else noise


def test_a_picture_of_unsound_numbers_fails_alone() -> None:
    link = LocalLink()
    loaded = load_engine(EngineOptions(str(CHECKPOINT), num_pages=512, num_threads=1), link, noise_with_a_bad_seed)
    for name, seed in (("good", 1), ("bad", BAD_SEED)):
        image = ImageParams(32, 32, num_timesteps=3, seed=seed)
        loaded.engine.submit(make_request(name, mode=OutputMode.IMAGE, sampling=SamplingParams(), image=image))
    while loaded.scheduler.has_work:
        loaded.engine.step()
    ends = {end.request_id: end.reason for report in link.reports for end in report.finished}
    drawn = {image.request_id for report in link.reports for image in report.images}
    assert ends == {"good": FinishReason.STOP, "bad": FinishReason.ERROR}
    assert drawn == {"good"} and loaded.pool.num_used == 0


class OnceUnsoundRunner(FakeRunner):
    """The first draw of all is of numbers that are not finite."""

    has_been_unsound = False

    def execute(self, batch: Batch) -> BatchResult:
        result = super().execute(batch)
        if result.tokens and not self.has_been_unsound:
            self.has_been_unsound = True
            result.broken = list(result.tokens)
            result.tokens.clear()
        return result

    def begin(self, batch: Batch) -> DividedPass:
        raise AssertionError("without a target no pass is divided")


def test_who_asks_again_does_not_find_what_made_the_first_answer_unsound() -> None:
    """Keys and values of an earlier chunk that are not finite are seen to be so only at the first draw; they stayed in the cache."""
    link, pool = LocalLink(), PagePool(200, 4)
    limits = SchedulerLimits(max_batch_tokens=16, max_running=8)
    scheduler, runner = Scheduler(pool, facts(), limits, refeed), OnceUnsoundRunner(lambda _, __: 50)
    engine = Engine(scheduler, runner, pool, link)
    usages = []
    for name in ("first", "again", "once more"):
        engine.submit(make_request(name, [TextSegment([7] * 60)]))
        while scheduler.has_work:
            engine.step()
        (end,) = (end for report in link.reports for end in report.finished if end.request_id == name)
        usages.append((end.reason, end.usage.cached_text_tokens))

    assert usages[0] == (FinishReason.ERROR, 0)
    assert usages[1] == (FinishReason.LENGTH, 0)
    assert usages[2][1] > 0
    assert pool.num_used == 0


class UnsoundRunner(FakeRunner):
    """Whatever a sequence draws from its third token on is of numbers that are not finite."""

    def execute(self, batch: Batch) -> BatchResult:
        result = super().execute(batch)
        result.broken = [row.sequence_id for row in batch.decodes if row.sequence_id == 0 and row.draw.index > 2]
        for sequence_id in result.broken:
            result.tokens.pop(sequence_id, None)
        return result

    def begin(self, batch: Batch) -> DividedPass:
        raise AssertionError("without a target no pass is divided")


@dataclass(slots=True)
class InTwo:
    """Launches steps that are done when they are collected; ``before_collecting`` is done first."""

    runner: FakeRunner
    before_collecting: Callable[[], None]
    decodes_beside: bool = False

    def launch(self, batch: Batch) -> LaunchedStep:
        def collect() -> BatchResult:
            self.before_collecting()
            return self.runner.execute(batch)

        return LaunchedStep(lambda: None, collect)


@pytest.mark.parametrize("is_aborted", [False, True])
def test_numbers_of_one_that_has_ended_by_then_are_nobody_s_concern(is_aborted: bool) -> None:
    """It has a row in the step that ran ahead of the one that ended it, or was aborted while its step was under way: the engine died."""
    link, pool = LocalLink(), PagePool(200, 4)
    runner = UnsoundRunner(lambda _, __: 50)
    scheduler = Scheduler(pool, facts(), SchedulerLimits(max_batch_tokens=64, max_running=8), refeed)
    num_steps = count()

    def abort_in_time() -> None:
        if is_aborted and next(num_steps) == 4:
            scheduler.abort("bad")

    engine = Engine(scheduler, runner, pool, link, InTwo(runner, abort_in_time))
    for name in ("bad", "good"):
        engine.submit(make_request(name, sampling=SamplingParams(max_tokens=12)))
    while scheduler.has_work:
        engine.step()
    ends = {end.request_id: end.reason for report in link.reports for end in report.finished}
    assert ends == {"bad": FinishReason.ABORT if is_aborted else FinishReason.ERROR, "good": FinishReason.LENGTH}
    assert pool.num_used == 0


SCALAR_READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default, torch.ops.aten.item.default)


class ScalarReads(TorchDispatchMode):
    """Counts how often a single number is asked of a tensor: on a GPU, a wait each."""

    num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += func in SCALAR_READS
        return func(*args, **(kwargs or {}))


def test_pictures_that_end_together_are_not_asked_one_by_one_whether_they_are_sound() -> None:
    link = LocalLink()
    loaded = load_engine(EngineOptions(str(CHECKPOINT), num_pages=512, num_threads=1), link)
    for name in ("one", "other"):
        image = ImageParams(32, 32, num_timesteps=3)
        loaded.engine.submit(make_request(name, mode=OutputMode.IMAGE, sampling=SamplingParams(), image=image))
    with ScalarReads() as reads:  # type: ignore[no-untyped-call]
        while loaded.scheduler.has_work:
            loaded.engine.step()
    assert {image.request_id for report in link.reports for image in report.images} == {"one", "other"}
    assert reads.num == 0
