"""How long does one picture take, from the request to its pixels, beside the time its rows multiply at the matrix rate?"""

from __future__ import annotations

import time
from collections.abc import Callable

from loadtests.costs import denoise_flops
from loadtests.gpu.part import Line
from loadtests.gpu.random_engine import edit_request, picture_request, step
from model.step_cache_rules import StepCache
from server.engine.process import LoadedEngine
from server.messages import Request, StepStats

WARM_TIMESTEPS = 10
"""Of the picture before the one that counts: enough that every kind of its steps has come."""

RequestOf = Callable[[str, int], Request]
"""``(name, num_timesteps)``."""


def measure_picture(loaded: LoadedEngine, side: int, num_timesteps: int, matmul_gflops: float, step_cache: StepCache | None = None) -> Line:
    """Time a picture from words alone."""

    def request_of(name: str, num: int) -> Request:
        return picture_request(name, side, num, step_cache)

    name = f"text to image {side}, {num_timesteps} timesteps"
    return {"what": name} | timed(loaded, request_of, num_timesteps, matmul_gflops)


def measure_edit(loaded: LoadedEngine, side: int, num_timesteps: int, matmul_gflops: float) -> Line:
    """Time a picture that is made from one of its size."""

    def request_of(name: str, num: int) -> Request:
        return edit_request(name, side, num, loaded.model.config)

    name = f"edit {side}, {num_timesteps} timesteps"
    return {"what": name} | timed(loaded, request_of, num_timesteps, matmul_gflops)


def timed(loaded: LoadedEngine, request_of: RequestOf, num_timesteps: int, matmul_gflops: float) -> Line:
    """Time the second of two pictures. The floor is that of the rows that were run, over the contexts they were run over."""
    draw(loaded, request_of("warm", min(WARM_TIMESTEPS, num_timesteps)))
    request = request_of("counts", num_timesteps)
    started = time.perf_counter()
    steps, kv_lens = draw(loaded, request)
    elapsed_s = time.perf_counter() - started
    config = loaded.model.config
    num_latents = (request.image.height // config.latent_stride) * (request.image.width // config.latent_stride)
    flops = sum(denoise_flops(config, num_latents, kv_lens[: stats.num_denoise_rows]) for stats in steps if stats.num_denoise_rows)
    floor_s = flops / matmul_gflops / 1e9
    return {"value": elapsed_s, "unit": "s", "floor": floor_s, "of floor": elapsed_s / floor_s}


def draw(loaded: LoadedEngine, request: Request) -> tuple[list[StepStats], list[int]]:
    """Answer a request for a picture; return its steps, and how long each branch's context was, the full one first."""
    loaded.engine.submit(request)
    steps: list[StepStats] = []
    kv_lens: list[int] = []
    while loaded.scheduler.has_work:
        steps.append(step(loaded))
        if steps[-1].num_denoise_rows and not kv_lens:
            (sequence,) = loaded.scheduler.running
            kv_lens = [context.kv_len for context in (sequence.full, *sequence.branches)]
    return steps, kv_lens
