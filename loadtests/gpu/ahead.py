"""Do steps that run ahead of the tokens and latents under way bring what steps bring that wait for them?"""

from __future__ import annotations

from pathlib import Path

from loadtests.gpu.part import Line, Options
from server.engine.link import LocalLink
from server.engine.loop import Engine
from server.engine.options import EngineOptions
from server.engine.process import LoadedEngine, load_engine
from server.messages import ImageParams, OutputMode, Request, SamplingParams, StepReport, TextSegment

NUM_CHATS = 5
NUM_TOKENS = 60


def ahead_line(model: Path, options: Options) -> Line:
    """Serve chats and a picture both ways, and count the tokens and the bytes of the picture that differ."""
    waiting, running_ahead = (_serve(model, options, runs_ahead=runs_ahead) for runs_ahead in (False, True))
    answers = [[(t.request_id, t.token_id) for report in reports for t in report.tokens] for reports in (waiting, running_ahead)]
    pictures = [[image.picture for report in reports for image in report.images] for reports in (waiting, running_ahead)]
    num_wrong = sum(one != other for one, other in zip(*(sorted(answer) for answer in answers), strict=True)) + (pictures[0] != pictures[1])
    verdict = "ok" if num_wrong == 0 and pictures[0] else "WRONG"
    return {"what": "steps that run ahead", "dtype": "torch.float32", "error": float(num_wrong), "bound": 0.0, "verdict": verdict}


def _serve(model: Path, options: Options, *, runs_ahead: bool) -> list[StepReport]:
    link = LocalLink()
    loaded: LoadedEngine = load_engine(EngineOptions(str(model), device=options.device.type, dtype="float32", num_pages=256), link)
    engine = Engine(loaded.scheduler, loaded.runner, loaded.pool, link, loaded.runner if runs_ahead else None)
    for k in range(NUM_CHATS):
        sampling = SamplingParams(max_tokens=NUM_TOKENS - 7 * k, temperature=1.0, seed=k, ignore_eos=True)
        engine.submit(Request(f"{k}", [TextSegment([20, 21 + k])], OutputMode.TEXT, sampling, ImageParams(32, 32)))
    image = ImageParams(64, 64, num_timesteps=12, seed=3)
    engine.submit(Request("picture", [TextSegment([20, 21])], OutputMode.IMAGE, SamplingParams(), image))
    while loaded.scheduler.has_work:
        engine.step()
    return list(link.reports)
