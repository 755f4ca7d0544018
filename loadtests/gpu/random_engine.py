"""An engine of full size round random weights, what it is asked, and its steps one by one: for the parts that measure one."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from loadtests.gpu.part import Options
from loadtests.gpu.side import side_stream
from model.bagel import Bagel
from model.config import BagelConfig
from model.profile import Family, FamilyProfile
from model.step_cache_rules import StepCache
from model.tokenizer import Tokenizer
from server.engine.calibration import calibrate
from server.engine.link import LocalLink
from server.engine.loop import Engine
from server.engine.options import EngineOptions, ModelFacts, SchedulerLimits
from server.engine.pictures import input_picture
from server.engine.process import LoadedEngine, assemble_engine, model_facts
from server.engine.scheduler import Scheduler
from server.messages import ImageParams, ImageSegment, OutputMode, Picture, Request, SamplingParams, StepReport, StepStats, TextSegment

ANY_TOKENIZER = Path(__file__).parents[2] / "tests" / "golden" / "tiny_a"
"""Only its special tokens are used: the words mean nothing here."""

SERVER_TARGET_S, SERVER_TARGET_DECODES = 0.040, 6.0
"""What a server aims at where nothing else is set (`server.front`, which needs packages that a bare GPU machine has not)."""

PROMPT_TOKENS = 30

ResultT = TypeVar("ResultT")


def random_engine(options: Options, *, is_fp8: bool = False) -> LoadedEngine:
    """Build an engine round random weights, which never touch a disk; bfloat16 on a GPU, experts and cache in 8-bit floats if so wished.

    Steps run ahead, decode steps are replayed and pictures decoded beside on a CPU too, all of it at once: a rehearsal takes every way.
    """
    device, size = options.device, "tiny" if options.is_tiny else "bagel-7b"
    config = BagelConfig.named(size)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = random_model(config, device, dtype)
    if is_fp8:
        for expert in model.experts:
            expert.round_matrices()
    engine_options = EngineOptions(
        str(ANY_TOKENIZER),
        has_prefix_cache=False,
        kv_dtype="fp8" if is_fp8 else "auto",
        device=device.type,
        cache_dir=options.cache_dir(size),
    )
    link = LocalLink()
    loaded = assemble_engine(model, facts_of(model), engine_options, link)
    if device.type == "cpu":
        loaded.runner.capture_decodes(lambda work: work)
        loaded.runner.decode_beside(side_stream(device))
        loaded.scheduler.encodings.encoder = loaded.runner
    return replace(loaded, engine=Engine(loaded.scheduler, loaded.runner, loaded.pool, link, loaded.runner))


def facts_of(model: Bagel) -> ModelFacts:
    """Return what a scheduler must know of a model that has no tokenizer of its own."""
    profile = FamilyProfile.of_family(Family.BAGEL, model.config)
    return model_facts(model, Tokenizer.from_directory(ANY_TOKENIZER, profile), profile)


def with_target(loaded: LoadedEngine) -> LoadedEngine:
    """Set a scheduler before the same runner that keeps to the server's own target, and let it learn what steps cost, as a server's does.

    Nothing may be under way in ``loaded``, which is not to be stepped any more.
    """
    usual = EngineOptions(str(ANY_TOKENIZER))
    limits = SchedulerLimits(
        usual.max_batch_tokens,
        usual.max_running,
        inter_token_target_s=SERVER_TARGET_S,
        has_prefix_cache=False,
        min_target_decodes=SERVER_TARGET_DECODES,
    )
    config, runner, link = loaded.model.config, loaded.runner, LocalLink()
    facts = replace(facts_of(loaded.model), share_of_steps=runner.share_of_steps)
    scheduler = Scheduler(loaded.pool, facts, limits, lambda picture: input_picture(picture, config))
    scheduler.encodings.encoder = runner
    calibrate(scheduler, runner, loaded.pool, config)
    return replace(loaded, engine=Engine(scheduler, runner, loaded.pool, link, runner), scheduler=scheduler)


def random_model(config: BagelConfig, device: torch.device, dtype: torch.dtype, kind: type[Bagel] = Bagel) -> Bagel:
    """Draw weights that keep activations in size, on the device itself: the VAE's in float32, all others in ``dtype``."""
    with torch.device("meta"):
        model = kind(config)
    model.to(dtype)
    model.vae.float()
    model.to_empty(device=device)
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            parameter.normal_(std=1.0 / math.sqrt(math.prod(parameter.shape[1:])))
    return model.eval()


def picture_request(name: str, side: int, num_timesteps: int, step_cache: StepCache | None = None) -> Request:
    """Ask for one picture from words alone, with the default guidance: two branches, in the interval only."""
    image = ImageParams(side, side, num_timesteps=num_timesteps, text_scale=4.0, image_scale=1.0, seed=len(name), step_cache=step_cache)
    return Request(name, [TextSegment(list(range(PROMPT_TOKENS)))], OutputMode.IMAGE, SamplingParams(), image)


def chat_request(name: str, num_context: int, num_tokens: int) -> Request:
    sampling = SamplingParams(max_tokens=num_tokens, ignore_eos=True)
    tokens = [token % 200 for token in range(num_context)]
    return Request(name, [TextSegment(tokens)], OutputMode.TEXT, sampling, ImageParams(16, 16))


def looking_request(name: str, side: int, config: BagelConfig) -> Request:
    """Ask for a word about a picture, which both encoders read; no two names have the same."""
    words = chat_request(name, PROMPT_TOKENS, 1)
    return replace(words, segments=[given_picture(name, side, config), *words.segments])


def edit_request(name: str, side: int, num_timesteps: int, config: BagelConfig) -> Request:
    """Ask for a picture like one that is given, with the family's guidance of edits: three branches at every step."""
    edit = FamilyProfile.of_family(Family.BAGEL, config).defaults.edit
    request = picture_request(name, side, num_timesteps)
    image = replace(request.image, text_scale=edit.text_scale, image_scale=edit.image_scale, interval=edit.interval, renorm=edit.renorm)
    return replace(request, segments=[given_picture(name, side, config), *request.segments], image=image)


def given_picture(name: str, side: int, config: BagelConfig) -> ImageSegment:
    """Return a picture of one colour for both encoders."""
    vit_side = max(1, min(side, config.vit_transform.max_size) // config.vit.patch_size) * config.vit.patch_size
    rgb = zlib.crc32(name.encode()).to_bytes(4, "little")[:3]
    vit, vae = (Picture(length, length, rgb * (length * length)) for length in (vit_side, side))
    return ImageSegment(vit, vae)


def step(loaded: LoadedEngine) -> StepStats:
    return next_report(loaded).stats


def next_report(loaded: LoadedEngine) -> StepReport:
    """Step until there is something to say: a picture that is being decoded brings nothing for a while."""
    while (report := loaded.engine.step()) is None:
        if not loaded.scheduler.has_work:
            raise RuntimeError("the engine has nothing to do")
    return report


def drain(loaded: LoadedEngine) -> None:
    """Abort whatever is running, and see the pass under way to its end: its pages are not free before."""
    loaded.scheduler.abort_all()
    loaded.engine.step()
    while loaded.scheduler.has_work:
        loaded.engine.step()


def from_idle(loaded: LoadedEngine, measure: Callable[[], ResultT]) -> Callable[[], ResultT]:
    """Return a measurement that first aborts whatever one that failed has left running: within it, since on a lost device that raises."""

    def measured() -> ResultT:
        drain(loaded)
        return measure()

    return measured
