"""Stand-ins at the scheduler's seams: a runner that computes nothing, facts of an imaginary model, requests in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from model.config import BagelConfig
from model.profile import Family, FamilyProfile
from server.engine.batch import Batch, BatchResult, DrawnToken
from server.engine.options import ModelFacts, SchedulerLimits
from server.engine.outputs import Outputs
from server.engine.pages import PagePool
from server.engine.scheduler import Scheduler
from server.engine.segments import PictureKey, PictureSegment
from server.messages import ImageParams, ImageSegment, OutputMode, Picture, Request, SamplingParams, Segment, TextSegment

BOS, EOS, BOI, EOI, END = 1, 2, 3, 4, 5
FREE = FamilyProfile.of_family(Family.INTERLEAVED, BagelConfig.named("tiny"))
"""Begins pictures anywhere and decides what follows them."""

MAX_POSITIONS = 100_000

Script = Callable[[int, int], int]
"""(sequence id, draw index) -> the token drawn."""


def facts(profile: FamilyProfile = FREE) -> ModelFacts:
    return ModelFacts(BOS, EOS, BOI, EOI, (END,), latent_stride=16, vit_stride=16, max_positions=MAX_POSITIONS, profile=profile)


def refeed(picture: Picture) -> ImageSegment:
    return ImageSegment(vit=picture, vae=picture)


def grey(height: int, width: int) -> Picture:
    return Picture(height, width, bytes(height * width * 3))


def picture_segment(height: int = 32, width: int = 32) -> ImageSegment:
    return ImageSegment(vit=grey(height, width), vae=grey(height, width))


def make_request(
    name: str,
    segments: list[Segment] | None = None,
    mode: OutputMode = OutputMode.TEXT,
    sampling: SamplingParams | None = None,
    image: ImageParams | None = None,
    *,
    is_thought: bool = False,
) -> Request:
    return Request(
        request_id=name,
        segments=[TextSegment([11, 12, 13])] if segments is None else segments,
        mode=mode,
        sampling=sampling or SamplingParams(max_tokens=4),
        image=image or ImageParams(32, 32, num_timesteps=4),
        generated_text_is_thought=is_thought,
        wants_progress=True,
    )


@dataclass(frozen=True, slots=True)
class Grey:
    """A picture that is still to be decoded, and will be grey."""

    params: ImageParams

    def begin(self) -> None:
        pass

    def take(self) -> Picture:
        return grey(self.params.height, self.params.width)


@dataclass(slots=True)
class FakeRunner:
    """Draws what the script says, finishes pictures as grey, or hands them over to be decoded, and keeps every batch it was given."""

    script: Script
    batches: list[Batch] = field(default_factory=list)
    decodes_beside: bool = False

    def execute(self, batch: Batch) -> BatchResult:
        self.batches.append(batch)
        result = BatchResult()
        for row in batch.decodes:
            result.tokens[row.sequence_id] = DrawnToken(self.script(row.sequence_id, row.draw.index))
        for prefill in batch.prefills:
            if prefill.draw is not None:
                result.tokens[prefill.sequence_id] = DrawnToken(self.script(prefill.sequence_id, prefill.draw.index))
        for step in batch.denoises:
            if step.is_last and self.decodes_beside:
                result.late[step.sequence_id] = Grey(step.params)
            elif step.is_last:
                result.pictures[step.sequence_id] = grey(step.params.height, step.params.width)
        return result

    def forget(self, sequence_ids: list[int]) -> None:
        pass


@dataclass(slots=True)
class FakeEncoder:
    """Encodes pictures beside the steps when it is told to."""

    under_way: dict[PictureKey, None] = field(default_factory=dict)
    encoded: set[PictureKey] = field(default_factory=set)

    def begin_encoding(self, image: PictureSegment) -> Callable[[], bool]:
        key = image.key
        assert key not in self.under_way, "it is asked for once"
        if key not in self.encoded:
            self.under_way[key] = None
        return lambda: key in self.encoded

    def finish(self, key: PictureKey) -> None:
        del self.under_way[key]
        self.encoded.add(key)


@dataclass(slots=True)
class House:
    """A scheduler with a fake runner, stepped by hand."""

    scheduler: Scheduler
    runner: FakeRunner
    pool: PagePool
    runs_ahead: bool = False
    ahead: Batch = field(default_factory=Batch)

    def step(self) -> Outputs:
        """Make one step; where it runs ahead, the next is chosen before this one's tokens are known."""
        batch, self.ahead = self.ahead if not self.ahead.is_empty else self.scheduler.schedule(), Batch()
        if not batch.is_empty:
            if self.runs_ahead:
                self.ahead = self.scheduler.schedule_ahead(batch)
            self.scheduler.commit(batch, self.runner.execute(batch))
        return self.scheduler.take_outputs()

    def run(self, max_steps: int = 2000) -> Outputs:
        """Step until nothing is left to do; return everything that came out."""
        total = Outputs()
        for _ in range(max_steps):
            outputs = self.step()
            total.tokens += outputs.tokens
            total.closed += outputs.closed
            total.progress += outputs.progress
            total.images += outputs.images
            total.finished += outputs.finished
            if not self.scheduler.has_work:
                return total
        raise AssertionError(f"still working after {max_steps} steps")


def make_house(
    script: Script,
    *,
    num_pages: int = 200,
    page_size: int = 4,
    limits: SchedulerLimits | None = None,
    profile: FamilyProfile = FREE,
    runs_ahead: bool = False,
    max_positions: int = MAX_POSITIONS,
) -> House:
    pool = PagePool(num_pages, page_size)
    known = replace(facts(profile), max_positions=max_positions)
    scheduler = Scheduler(pool, known, limits or SchedulerLimits(max_batch_tokens=64, max_running=8), refeed)
    return House(scheduler, FakeRunner(script), pool, runs_ahead)


def tokens_of(outputs: Outputs, name: str) -> list[int]:
    return [token.token_id for token in outputs.tokens if token.request_id == name]
