"""Does the engine bring the recorded results on this device? A greedy text, and every text-to-image run, each latent on its way and the
picture.

    python -m loadtests.gpu.golden --out DIR [--device cpu --tiny]

All requests run at once, as in serving, in float32 and in bfloat16.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from safetensors.torch import load_file

from loadtests.gpu.part import Line, Options, Report, read_options
from model.config import BagelConfig
from model.guidance_rules import Renorm
from model.profile import Family, FamilyProfile
from model.tokenizer import Tokenizer
from server.engine.batch import Batch, BatchResult
from server.engine.link import LocalLink
from server.engine.loop import DividedPass, Engine
from server.engine.options import EngineOptions
from server.engine.process import LoadedEngine, load_engine
from server.messages import ImageParams, OutputMode, Picture, Request, SamplingParams, TextSegment

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "tiny_a"
BOUND = {"float32": 1e-3, "bfloat16": 0.03}
"""Of |found - expected| / |expected| over all latents of a run: bfloat16 rounds every layer of every step to 2^-8."""
PICTURE_BOUND = {"float32": 0.05, "bfloat16": 1.5}
"""Of |found - expected| on average, in 8-bit steps: where latents are off by a hundredth, pictures here move by half a step."""
TEXT = "text.decode"


class Run(TypedDict):
    """One recorded run of the sampler."""

    cfg_text_scale: float
    cfg_img_scale: float
    cfg_renorm_type: str
    cfg_renorm_min: NotRequired[float]
    cfg_interval: tuple[float, float]
    num_timesteps: int
    timestep_shift: float


@dataclass(slots=True)
class Recorder:
    """Keeps the latents after every Euler step, by request; a request's number is its sequence's."""

    loaded: LoadedEngine
    latents: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    def execute(self, batch: Batch) -> BatchResult:
        result = self.loaded.runner.execute(batch)
        for step in batch.denoises:
            self.latents.setdefault(step.sequence_id, []).append(self.loaded.runner.latents(step.sequence_id).float().cpu())
        return result

    def begin(self, batch: Batch) -> DividedPass:
        raise AssertionError("without an inter-token target no pass is divided")

    def forget(self, sequence_ids: list[int]) -> None:
        self.loaded.runner.forget(sequence_ids)


class Recorded:
    """The recorded cases as requests, the text first."""

    def __init__(self) -> None:
        self.tensors = load_file(GOLDEN / "cases.safetensors")
        cases = json.loads((GOLDEN / "cases.json").read_text())
        profile = FamilyProfile.of_family(Family.INTERLEAVED, BagelConfig.from_directory(GOLDEN))
        tokenizer = Tokenizer.from_directory(GOLDEN, profile)
        texts = {name: [TextSegment(tokenizer.encode(cases["config"][name]))] for name in ("text_prompt", "prompt")}
        self.next_tokens: list[int] = self.tensors[f"{TEXT}.next_tokens"].tolist()
        sampling = SamplingParams(max_tokens=len(self.next_tokens))
        self.requests = [Request(TEXT, [*texts["text_prompt"]], OutputMode.TEXT, sampling, ImageParams(16, 16))]
        size = (cases["config"]["t2i"][0], cases["config"]["t2i"][1])
        runs: dict[str, Run] = {name: run for name, run in cases["gen"].items() if name.startswith("t2i.")}
        for name, run in runs.items():
            self.requests.append(Request(name, [*texts["prompt"]], OutputMode.IMAGE, SamplingParams(), image_params(size, run)))

    def noise(self, seed: int, image_index: int, num_tokens: int, channels: int) -> torch.Tensor:
        """Return what every recorded text-to-image run starts from."""
        return self.tensors["t2i.noise"]


def image_params(size: tuple[int, int], run: Run) -> ImageParams:
    return ImageParams(
        *size,
        num_timesteps=run["num_timesteps"],
        timestep_shift=run["timestep_shift"],
        text_scale=run["cfg_text_scale"],
        image_scale=run["cfg_img_scale"],
        interval=(run["cfg_interval"][0], run["cfg_interval"][1]),
        renorm=Renorm(run["cfg_renorm_type"]),
        renorm_min=run.get("cfg_renorm_min", 0.0),
    )


def main(arguments: list[str] | None = None) -> int:
    options = read_options("golden", arguments)
    recorded = Recorded()
    report = Report(options, "golden")
    for dtype in BOUND:
        report.add(dtype, partial(compare, recorded, dtype, options))
    return 0 if all(line.get("verdict") == "ok" for line in report.lines) else 1


def compare(recorded: Recorded, dtype: str, options: Options) -> list[Line]:
    """Run everything in one engine, and compare."""
    link = LocalLink()
    cache_dir = options.cache_dir(GOLDEN.name)
    engine_options = EngineOptions(str(GOLDEN), device=options.device.type, dtype=dtype, num_pages=512, cache_dir=cache_dir)
    recorder = Recorder(load_engine(engine_options, link, recorded.noise))
    engine = Engine(recorder.loaded.scheduler, recorder, recorder.loaded.pool, link)
    for request in recorded.requests:
        engine.submit(request)
    while recorder.loaded.scheduler.has_work:
        engine.step()
    drawn = [token.token_id for report in link.reports for token in report.tokens]
    expected = recorded.next_tokens[: len(drawn)]
    differing = sum(one != other for one, other in zip(drawn, expected, strict=True)) / len(expected)
    lines = [_line("greedy tokens that differ", dtype, differing, 0.0)]
    pictures = {image.request_id: image.picture for report in link.reports for image in report.images}
    for number, request in enumerate(recorded.requests[1:], start=1):
        found, wanted = torch.stack(recorder.latents[number]), recorded.tensors[f"{request.request_id}.x"][1:]
        lines.append(_line(f"latents of {request.request_id}", dtype, float((found - wanted).norm() / wanted.norm()), BOUND[dtype]))
        moved = moved_by(pictures[request.request_id], recorded.tensors[f"{request.request_id}.image_u8"])
        lines.append(_line(f"picture of {request.request_id}, in 8-bit steps", dtype, moved, PICTURE_BOUND[dtype]))
    return lines


def moved_by(picture: Picture, wanted: torch.Tensor) -> float:
    """Return by how much a value of a picture differs from the recorded one ``[height, width, 3]`` on average."""
    found = torch.frombuffer(bytearray(picture.rgb), dtype=torch.uint8).view(picture.height, picture.width, 3)
    return float((found.float() - wanted.float()).abs().mean())


def _line(name: str, dtype: str, error: float, bound: float) -> Line:
    return {"what": name, "dtype": dtype, "error": error, "bound": bound, "verdict": "ok" if error <= bound else "WRONG"}


if __name__ == "__main__":
    sys.exit(main())
