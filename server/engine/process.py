"""Starts an engine: loads the model, sizes the page pool, wires scheduler, runner and link, and runs until told to stop."""

from __future__ import annotations

import contextlib
import gc
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from kernels.attention import attention_backend
from kernels.fp8 import FP8
from kernels.side_stream import give_steps_priority
from kernels.triton_driver import use_prebuilt
from model.bagel import Bagel
from model.errors import CheckpointError
from model.kv_scales import kv_scales
from model.preview_files import load_or_fit_preview
from model.profile import Family, FamilyProfile
from model.stepwise import finest_cut
from model.tokenizer import Tokenizer
from model.weights import load_bagel
from server.engine.calibration import calibrate
from server.engine.devices import chosen_device
from server.engine.fault_points import FaultPoints
from server.engine.grammar import NO_GRAMMARS, Grammars
from server.engine.graph_warming import warm_graphs
from server.engine.link import Link, LocalLink
from server.engine.loop import Engine
from server.engine.memory_plan import TooManyPages, graph_bytes, page_bytes, pages_on_cpu, pages_on_gpu, working_bytes
from server.engine.options import LEAST_FP8_CAPABILITY, EngineOptions, ModelFacts
from server.engine.packer import Markers
from server.engine.paged_attention import PagedKeysValues
from server.engine.pages import PagePool
from server.engine.pictures import input_picture
from server.engine.precision import choose_precision
from server.engine.previews import PreviewPainter
from server.engine.runner import NoiseSource, Runner, seeded_noise
from server.engine.scheduler import Scheduler
from server.engine.threads import share_threads, thread_beside
from server.messages import (
    EngineReady,
    FinishReason,
    ImageParams,
    ImageSegment,
    LoadProgress,
    OutputMode,
    Picture,
    Request,
    SamplingParams,
    TextSegment,
)


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine ready to run, and its parts for those who look inside (tests, benchmarks)."""

    engine: Engine
    scheduler: Scheduler
    runner: Runner
    pool: PagePool
    model: Bagel
    ready: EngineReady


def run_engine(options: EngineOptions, link: Link) -> None:
    """Load, announce readiness, serve until a Shutdown arrives.

    What was made before lives as long as the process: the collector is told not to look through it in the middle of an answer: 255,000
    objects, 0.23 s on a slow core.

    Raises:
        CheckpointError: the model directory is missing something or has something wrong.
        NoSuchDevice: the options name a device that is not there.
        TooManyPages: there is no memory for the pages that the options ask for.
    """
    loaded = load_engine(options, link)
    capture_decodes(loaded, options, link)
    warm_up(loaded)
    calibrate(loaded.scheduler, loaded.runner, loaded.pool, loaded.model.config)
    if options.fault_dir is not None:
        loaded.runner.faults = loaded.engine.faults = FaultPoints(Path(options.fault_dir))
    gc.collect()
    gc.freeze()
    link.send_ready(loaded.ready)
    try:
        loaded.engine.run()
    finally:
        loaded.runner.close()


def load_engine(options: EngineOptions, link: Link, noise: NoiseSource = seeded_noise) -> LoadedEngine:
    """Build an engine from a model directory; ``noise`` is a seam for tests that must fix the first latents."""
    device = chosen_device(options.device)
    dtype = _dtype(options.dtype, device)
    if device.type == "cuda":
        use_prebuilt()
    share_threads(options.num_threads, device, dtype)

    def report(tensor: str, bytes_done: int, bytes_total: int) -> None:
        link.send_load_progress(LoadProgress(bytes_done, bytes_total, tensor))

    path = Path(options.model_path)
    has_fp8_experts = options.quantization == "fp8"
    if has_fp8_experts:
        check_fp8("quantization", device)
        check_fp8_product(device, dtype)
    if options.kv_dtype == "fp8":
        check_fp8("kv_dtype", device)
    model = load_bagel(path, device, dtype, report, has_fp8_experts=has_fp8_experts)
    profile = FamilyProfile.from_directory(path, model.config, None if options.family is None else Family(options.family))
    tokenizer = Tokenizer.from_directory(path, profile)
    grammars = _grammars(tokenizer, model.config.llm.vocab_size)
    return assemble_engine(model, model_facts(model, tokenizer, profile), options, link, noise, grammars)


def check_fp8(option: str, device: torch.device) -> None:
    """See that this device has 8-bit floats.

    Raises:
        CheckpointError: it has none; the message says what has.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < LEAST_FP8_CAPABILITY:
        raise CheckpointError(f"{option} fp8: {torch.cuda.get_device_name(device)} has no 8-bit floats; Ada, Hopper and later GPUs have")


def check_fp8_product(device: torch.device, dtype: torch.dtype) -> None:
    """See that products of 8-bit floats have this dtype on this device.

    Raises:
        CheckpointError: they have not; the message says what they have.
    """
    if device.type == "cuda" and dtype is not torch.bfloat16:
        raise CheckpointError("quantization fp8: on a GPU its results are bfloat16; leave dtype out or set it to bfloat16")


def _grammars(tokenizer: Tokenizer, vocab_size: int) -> Grammars:
    """Return the grammars of the library, where it is installed: without it everything else still works."""
    try:
        from server.engine.llguidance_grammars import LlguidanceGrammars
    except ImportError:
        return NO_GRAMMARS
    return LlguidanceGrammars(tokenizer, vocab_size)


def warm_up(loaded: LoadedEngine) -> None:
    """Answer two small requests that nobody asked, so that kernels are built and faults show before the first client comes.

    Raises:
        RuntimeError: the model fails on them.
    """
    link = LocalLink()
    engine = Engine(loaded.scheduler, loaded.runner, loaded.pool, link)
    config = loaded.model.config
    vae, vit = config.vae_transform.stride, config.vit_transform.stride
    picture = ImageSegment(vit=Picture(vit, vit, bytes(3 * vit * vit)), vae=Picture(vae, vae, bytes(3 * vae * vae)))
    image = ImageParams(config.latent_stride, config.latent_stride, num_timesteps=2, interval=(0.0, 1.0), image_scale=2.0)
    for mode in (OutputMode.TEXT, OutputMode.IMAGE):
        engine.submit(Request(mode.value, [picture, TextSegment([0])], mode, SamplingParams(max_tokens=2), image))
    while loaded.scheduler.has_work:
        engine.step()
    if any(end.reason is FinishReason.ERROR for report in link.reports for end in report.finished):
        raise RuntimeError("the model failed on the two small requests every start begins with; the log above says how")


def capture_decodes(loaded: LoadedEngine, options: EngineOptions, link: Link) -> None:
    """Capture the usual decode steps, as long as what other steps work with stays free."""
    device, working = loaded.model.device, working_bytes(loaded.model.config, options.max_batch_tokens, loaded.model.dtype.itemsize)

    def has_room() -> bool:
        return device.type != "cuda" or torch.cuda.mem_get_info(device)[0] > working

    def report(done: int, total: int) -> None:
        link.send_load_progress(LoadProgress(0, 0, "", done, total))

    warm_graphs(loaded.runner, options.max_running, has_room, report)


def model_facts(model: Bagel, tokenizer: Tokenizer, profile: FamilyProfile) -> ModelFacts:
    """Collect what the scheduler must know of a model."""
    return ModelFacts(
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        boi_id=tokenizer.boi_id,
        eoi_id=tokenizer.eoi_id,
        end_ids=tokenizer.end_ids,
        latent_stride=model.config.latent_stride,
        vit_stride=model.config.vit.patch_size,
        max_positions=model.config.llm.max_positions,
        profile=profile,
        num_layers=model.config.llm.num_layers,
        most_bits=finest_cut(model.device.type).num_bits,
    )


def assemble_engine(
    model: Bagel,
    facts: ModelFacts,
    options: EngineOptions,
    link: Link,
    noise: NoiseSource = seeded_noise,
    grammars: Grammars = NO_GRAMMARS,
) -> LoadedEngine:
    """Wire an engine round a loaded model."""
    device, dtype = model.device, model.dtype
    give_steps_priority(device)
    choose_precision(dtype)
    num_pages = options.num_pages or _num_pages(model, options)
    llm = model.config.llm
    shape = (llm.num_layers, 2, num_pages, options.page_size, llm.num_kv_heads, llm.head_dim)
    page_dtype = _page_dtype(options, dtype)
    cache = PagedKeysValues(_page_memory(shape, page_dtype, device), kv_scales(model.mot_layers) if page_dtype is FP8 else None)
    cache_dir = None if options.cache_dir is None else Path(options.cache_dir)
    preview = load_or_fit_preview(Path(options.model_path), model.vae, cache_dir)
    painter = PreviewPainter(preview, facts.latent_stride, model.config.latent_patch_size)
    runner = Runner(model, cache, Markers(facts.boi_id, facts.eoi_id, facts.latent_stride), painter, noise)
    pool = PagePool(num_pages, options.page_size)
    if (thread := thread_beside(device, dtype)) is not None:
        runner.pass_beside(thread)
    runs_ahead = device.type == "cuda"
    facts = replace(facts, model_id=options.model_path, share_of_steps=runner.share_of_steps, runs_ahead=runs_ahead)
    scheduler = Scheduler(pool, facts, options.limits, lambda picture: input_picture(picture, model.config), grammars)
    if runner.decodes_beside:
        scheduler.encodings.encoder = runner
    ready = EngineReady(
        max_context_rows=num_pages * options.page_size,
        max_positions=facts.max_positions,
        page_size=options.page_size,
        num_pages=num_pages,
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        max_waiting=options.max_waiting,
        attention=attention_backend(device),
        kv_dtype=str(cache.pool.dtype).removeprefix("torch."),
    )
    engine = Engine(scheduler, runner, pool, link, launcher=runner if runs_ahead else None)
    return LoadedEngine(engine, scheduler, runner, pool, model, ready)


def _page_memory(shape: tuple[int, int, int, int, int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return zeros; on a CPU from the operating system's zero pages, which cost memory only when they are written.

    Raises:
        TooManyPages: the device has not so much memory.
        torch.OutOfMemoryError: others hold it on a GPU; an engine that has just died may let go of it before the next start.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    free, total = _memory_bytes(device)
    # An operating system may promise more than there is, and end the process when it is used.
    if num_bytes <= total:
        if device.type != "cpu":
            return torch.zeros(shape, dtype=dtype, device=device)
        with contextlib.suppress(MemoryError):
            return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(shape)
    num_pages = shape[2]
    raise TooManyPages(num_pages, num_bytes // num_pages, free)


def _memory_bytes(device: torch.device) -> tuple[int, int]:
    """Return how much of a device's memory is free, and how much there is."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    page = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page


def _dtype(name: str, device: torch.device) -> torch.dtype:
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return dtypes[name]


def _page_dtype(options: EngineOptions, dtype: torch.dtype) -> torch.dtype:
    return FP8 if options.kv_dtype == "fp8" else dtype


def _num_pages(model: Bagel, options: EngineOptions) -> int:
    """Size the pool from what memory is free once the model is loaded."""
    bytes_per_page = page_bytes(model.config.llm, options.page_size, _page_dtype(options, model.dtype).itemsize)
    free, _ = _memory_bytes(model.device)
    if model.device.type == "cuda":
        working = working_bytes(model.config, options.max_batch_tokens, model.dtype.itemsize)
        return pages_on_gpu(free, bytes_per_page, working + graph_bytes(model.config.llm, model.dtype.itemsize))
    return pages_on_cpu(free, bytes_per_page)
