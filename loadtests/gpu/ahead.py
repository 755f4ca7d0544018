"""Do steps that run ahead of the tokens and latents under way bring what steps bring that wait for them, and does launching not wait?

Those that run ahead leave their pictures to be decoded and encoded beside, those that wait do it themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from kernels.side_stream import Arriving, SideStream
from loadtests.gpu.part import Line, Options
from loadtests.gpu.side import side_stream
from loadtests.gpu.sum_grammars import SumGrammars
from loadtests.gpu.waits import counting_waits
from model.profile import Family, FamilyProfile
from model.tokenizer import Tokenizer
from model.weights import load_bagel
from server.engine.batch import Batch, BatchResult
from server.engine.launched_step import LaunchedStep
from server.engine.link import LocalLink
from server.engine.loop import Engine
from server.engine.options import EngineOptions
from server.engine.process import LoadedEngine, assemble_engine, model_facts
from server.engine.runner import Runner
from server.messages import ImageParams, ImageSegment, OutputMode, Picture, Request, SamplingParams, StepReport, TextSegment

NUM_CHATS = 5
NUM_TOKENS = 60
NUM_PICTURES = 3
WAYS_OF_A_PICTURE = 3
"""Through both encoders and, another one, through the decoder."""
MOST_MOVED_BY = 2
MOST_MOVED = 0.01
"""How far rounding may move values of a picture, and what share of them, with room: float32 and float64 differ by 1 in two values
(tests/golden/README.md)."""
MAY_WAIT = 0.15
LEAST_AHEAD = 0.8
"""Of the steps of the longest chat: those that begin something, or end a picture, may be waited for."""


class WatchedSide:
    """A side stream, and how often the host waited to begin something there; the first few build what they need."""

    def __init__(self, side: SideStream, device: torch.device) -> None:
        self._side = side
        self._device = device
        self.num_begun = self.num_waiting = 0

    def begin(self, work: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Arriving:
        arriving, num_waits = counting_waits(lambda: self._side.begin(work, x), self._device)
        self.num_waiting += self.num_begun >= WAYS_OF_A_PICTURE and num_waits > 0
        self.num_begun += 1
        return arriving


class WatchedLauncher:
    """Launches, and counts the launches in which the host waited: of steps that neither begin nor end a picture.

    Where draws follow later, they are watched with the launch. ``num_ahead`` counts the steps launched while another was under way.
    """

    def __init__(self, runner: Runner, device: torch.device) -> None:
        self._runner = runner
        self._device = device
        self.num_watched = self.num_waiting = self.num_ahead = self._num_under_way = 0

    @property
    def decodes_beside(self) -> bool:
        return self._runner.decodes_beside

    def launch(self, batch: Batch) -> LaunchedStep:
        self.num_ahead += self._num_under_way
        launched = self._runner.launch(batch) if batch.new_images or batch.prefills else self._watched(batch)
        self._num_under_way += 1

        def collect() -> BatchResult:
            self._num_under_way -= 1
            return launched.collect()

        return LaunchedStep(launched.draw, collect)

    def _watched(self, batch: Batch) -> LaunchedStep:
        launched, num_waits = counting_waits(lambda: self._runner.launch(batch), self._device)
        self.num_watched += 1
        self.num_waiting += num_waits > 0

        def draw() -> None:
            _, num_waits = counting_waits(launched.draw, self._device)
            self.num_waiting += num_waits > 0

        return LaunchedStep(draw, launched.collect)


def ahead_lines(model: Path, options: Options) -> list[Line]:
    """Serve chats, of penalties and of a grammar too, and a picture both ways; count what differs, and how often a launch waited.

    A size of decode steps is captured the third time it comes, which waits: that is all the waiting there may be.
    """
    waiting, _ = _serve(model, options, runs_ahead=False)
    running_ahead, (launcher, side) = _serve(model, options, runs_ahead=True)
    answers = [[(t.request_id, t.token_id) for report in reports for t in report.tokens] for reports in (waiting, running_ahead)]
    pictures = [{image.request_id: image.picture for report in reports for image in report.images} for reports in (waiting, running_ahead)]
    num_wrong = sum(one != other for one, other in zip(*(sorted(answer) for answer in answers), strict=True))
    num_wrong += sum(not are_alike(picture, pictures[1][request_id]) for request_id, picture in pictures[0].items())
    verdict = "ok" if num_wrong == 0 and len(pictures[0]) == NUM_PICTURES and launcher.num_ahead >= LEAST_AHEAD * NUM_TOKENS else "WRONG"
    name = f"steps that run ahead, {launcher.num_ahead} times"
    same: Line = {"what": name, "dtype": "torch.float32", "error": float(num_wrong), "bound": 0.0, "verdict": verdict}
    share = launcher.num_waiting / launcher.num_watched
    name = f"launches that wait, of {launcher.num_watched}"
    verdict = "ok" if share <= MAY_WAIT else "WRONG"
    launches: Line = {"what": name, "dtype": "torch.float32", "error": share, "bound": MAY_WAIT, "verdict": verdict}
    name = f"pictures in and out that are begun by waiting, of {side.num_begun}"
    verdict = "ok" if side.num_begun == NUM_PICTURES * WAYS_OF_A_PICTURE and not side.num_waiting else "WRONG"
    return [same, launches, {"what": name, "dtype": "torch.float32", "error": float(side.num_waiting), "bound": 0.0, "verdict": verdict}]


def are_alike(one: Picture, other: Picture) -> bool:
    """Tell whether two pictures are the same but for rounding.

    Steps that run ahead are composed otherwise, and a GPU multiplies other numbers of rows with other kernels: the last bit of a latent may
    differ. Since pixels are cut off to 8 bits, not rounded, that moves a few values by one; what is wrong moves many, or moves them far.
    """
    if (one.height, one.width) != (other.height, other.width):
        return False
    difference = np.abs(np.subtract(*(np.frombuffer(picture.rgb, np.uint8).astype(np.int16) for picture in (one, other))))
    return bool(difference.max() <= MOST_MOVED_BY and np.count_nonzero(difference) <= MOST_MOVED * difference.size)


def _serve(directory: Path, options: Options, *, runs_ahead: bool) -> tuple[list[StepReport], tuple[WatchedLauncher, WatchedSide]]:
    link = LocalLink()
    loaded = _load(directory, options, link)
    launcher, side = WatchedLauncher(loaded.runner, options.device), WatchedSide(side_stream(options.device), options.device)
    loaded.runner.decode_beside(side if runs_ahead else None)
    loaded.scheduler.encodings.encoder = loaded.runner if runs_ahead else None
    engine = Engine(loaded.scheduler, loaded.runner, loaded.pool, link, launcher if runs_ahead else None)
    for k, sampling in enumerate(_samplings()):
        engine.submit(Request(f"{k}", [TextSegment([20, 21 + k])], OutputMode.TEXT, sampling, ImageParams(32, 32)))
    for k in range(NUM_PICTURES):
        image = ImageParams(64, 64, num_timesteps=12 + k, seed=k)
        engine.submit(Request(f"picture {k}", [_picture(k), TextSegment([20, 21])], OutputMode.IMAGE, SamplingParams(), image))
    while loaded.scheduler.has_work:
        engine.step()
    return list(link.reports), (launcher, side)


def _picture(number: int) -> ImageSegment:
    """Return a picture of some colour for both encoders."""
    vit, vae = (Picture(side, side, bytes([40 * number]) * (3 * side * side)) for side in (56, 64))
    return ImageSegment(vit, vae)


def _samplings() -> list[SamplingParams]:
    """The settings of each chat: the longest and the shortest depend on the token before in all they draw."""
    plain = [SamplingParams(max_tokens=NUM_TOKENS - 7 * k, temperature=1.0, seed=k, ignore_eos=True) for k in range(NUM_CHATS)]
    penalised = replace(plain[0], frequency_penalty=0.4, presence_penalty=0.2, repetition_penalty=1.3)
    return [penalised, *plain[1:-1], replace(plain[-1], grammar=str(NUM_TOKENS))]


def _load(directory: Path, options: Options, link: LocalLink) -> LoadedEngine:
    model = load_bagel(directory, options.device, torch.float32)
    profile = FamilyProfile.of_family(Family.INTERLEAVED, model.config)
    facts = model_facts(model, Tokenizer.from_directory(directory, profile), profile)
    cache_dir = options.cache_dir(directory.name)
    engine_options = EngineOptions(str(directory), device=options.device.type, dtype="float32", num_pages=256, cache_dir=cache_dir)
    return assemble_engine(model, facts, engine_options, link, grammars=SumGrammars(model.config.llm.vocab_size))
