"""What fidelity is measured on: pictures drawn without HTTP, with the latents on the way to them, and attention within one pass."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from kernels.plan import AttentionPlan
from model.bagel import Bagel
from model.config import BagelConfig
from model.profile import FamilyProfile
from model.tokenizer import Tokenizer
from server.engine.batch import Batch, BatchResult
from server.engine.link import LocalLink
from server.engine.loop import DividedPass, Engine
from server.engine.paged_attention import PagedAttend, PagedKeysValues
from server.engine.process import LoadedEngine
from server.engine.runner import seeded_noise
from server.messages import ImageParams, OutputMode, Picture, Request, SamplingParams, TextSegment

PAGE_SIZE = 16
NUM_ROUNDS = 3
"""The time of a picture is the least of so many."""
Figures = dict[str, object]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture, the latents on the way to it by steps taken, the rows it took and its seconds."""

    picture: Picture
    latents: dict[int, torch.Tensor]
    num_rows: int
    seconds: float

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The picture's pixels, one after the other."""
        return np.frombuffer(self.picture.rgb, dtype=np.uint8)


def prompt_of(path: Path, words: str) -> TextSegment:
    """Return words as the model in ``path`` reads them."""
    profile = FamilyProfile.from_directory(path, BagelConfig.from_directory(path))
    return TextSegment(Tokenizer.from_directory(path, profile).encode(words))


def draw(loaded: LoadedEngine, prompt: TextSegment, image: ImageParams) -> Drawn:
    """Draw one picture several times, which come out the same, and keep the shortest time."""
    times = []
    for _ in range(NUM_ROUNDS):
        recorder, link = Recorder(loaded), LocalLink()
        engine = Engine(loaded.scheduler, recorder, loaded.pool, link)
        engine.submit(Request("picture", [prompt], OutputMode.IMAGE, SamplingParams(), image))
        started = time.perf_counter()
        while loaded.scheduler.has_work:
            engine.step()
        times.append(time.perf_counter() - started)
    (picture,) = (image.picture for report in link.reports for image in report.images)
    recorder.latents[0] = seeded_noise(image.seed, 0, *recorder.latents[image.num_timesteps - 1].shape)
    return Drawn(picture, recorder.latents, recorder.num_rows, min(times))


@dataclass(slots=True)
class Recorder:
    """Runs batches and keeps the latents each left behind, by the number of Euler steps taken."""

    loaded: LoadedEngine
    latents: dict[int, torch.Tensor] = field(default_factory=dict)
    num_rows: int = 0

    def execute(self, batch: Batch) -> BatchResult:
        result = self.loaded.runner.execute(batch)
        for step in batch.denoises:
            self.num_rows += len(step.rows)
            self.latents[step.eulers[-1].number + 1] = self.loaded.runner.latents(step.sequence_id).clone()
        return result

    def begin(self, batch: Batch) -> DividedPass:
        raise AssertionError("without an inter-token target no pass is divided")

    def forget(self, sequence_ids: list[int]) -> None:
        self.loaded.runner.forget(sequence_ids)


def attend(model: Bagel, plan: AttentionPlan) -> PagedAttend:
    """Attend over the pass's own keys; a pool of its own keeps what is kept."""
    llm = model.config.llm
    num_pages = -(-plan.layout.num_tokens // PAGE_SIZE) + 1
    shape = (llm.num_layers, 2, num_pages, PAGE_SIZE, llm.num_kv_heads, llm.head_dim)
    return PagedKeysValues(torch.zeros(shape, dtype=model.dtype, device=model.device)).attend(plan)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return how long the difference is beside what is expected."""
    return float((found - expected).norm() / expected.norm())
