"""Do steps that run ahead of the tokens and latents under way bring what steps bring that wait for them, and does launching not wait?"""

from __future__ import annotations

from pathlib import Path

import torch

from loadtests.gpu.part import Line, Options
from loadtests.gpu.waits import counting_waits
from server.engine.batch import Batch
from server.engine.link import LocalLink
from server.engine.loop import Engine
from server.engine.options import EngineOptions
from server.engine.process import LoadedEngine, load_engine
from server.engine.runner import LaunchedStep, Runner
from server.messages import ImageParams, OutputMode, Request, SamplingParams, StepReport, TextSegment

NUM_CHATS = 5
NUM_TOKENS = 60
MAY_WAIT = 0.15


class WatchedLauncher:
    """Launches, and counts the launches in which the host waited: of steps that neither begin nor end a picture."""

    def __init__(self, runner: Runner, device: torch.device) -> None:
        self._runner = runner
        self._device = device
        self.num_watched = self.num_waiting = 0

    def launch(self, batch: Batch) -> LaunchedStep:
        if batch.new_images or batch.prefills:
            return self._runner.launch(batch)
        launched, num_waits = counting_waits(lambda: self._runner.launch(batch), self._device)
        self.num_watched += 1
        self.num_waiting += num_waits > 0
        return launched


def ahead_lines(model: Path, options: Options) -> list[Line]:
    """Serve chats and a picture both ways; count what differs, and how often a launch waited.

    A size of decode steps is captured the third time it comes, which waits: that is all the waiting there may be.
    """
    waiting, _ = _serve(model, options, runs_ahead=False)
    running_ahead, launcher = _serve(model, options, runs_ahead=True)
    answers = [[(t.request_id, t.token_id) for report in reports for t in report.tokens] for reports in (waiting, running_ahead)]
    pictures = [[image.picture for report in reports for image in report.images] for reports in (waiting, running_ahead)]
    num_wrong = sum(one != other for one, other in zip(*(sorted(answer) for answer in answers), strict=True)) + (pictures[0] != pictures[1])
    verdict = "ok" if num_wrong == 0 and pictures[0] else "WRONG"
    same: Line = {"what": "steps that run ahead", "dtype": "torch.float32", "error": float(num_wrong), "bound": 0.0, "verdict": verdict}
    share = launcher.num_waiting / launcher.num_watched
    name = f"launches that wait, of {launcher.num_watched}"
    verdict = "ok" if share <= MAY_WAIT else "WRONG"
    return [same, {"what": name, "dtype": "torch.float32", "error": share, "bound": MAY_WAIT, "verdict": verdict}]


def _serve(model: Path, options: Options, *, runs_ahead: bool) -> tuple[list[StepReport], WatchedLauncher]:
    link = LocalLink()
    loaded: LoadedEngine = load_engine(EngineOptions(str(model), device=options.device.type, dtype="float32", num_pages=256), link)
    launcher = WatchedLauncher(loaded.runner, options.device)
    engine = Engine(loaded.scheduler, loaded.runner, loaded.pool, link, launcher if runs_ahead else None)
    for k in range(NUM_CHATS):
        sampling = SamplingParams(max_tokens=NUM_TOKENS - 7 * k, temperature=1.0, seed=k, ignore_eos=True)
        engine.submit(Request(f"{k}", [TextSegment([20, 21 + k])], OutputMode.TEXT, sampling, ImageParams(32, 32)))
    image = ImageParams(64, 64, num_timesteps=12, seed=3)
    engine.submit(Request("picture", [TextSegment([20, 21])], OutputMode.IMAGE, SamplingParams(), image))
    while loaded.scheduler.has_work:
        engine.step()
    return list(link.reports), launcher
