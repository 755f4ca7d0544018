"""Teaches the cost model before the first client comes: a few small requests of growing size, for a second at most.

Every term of a load is among them, pictures that are read too. They run on an account of their own, and what they leave in the prefix
cache is the first to give way. What was measured before is forgotten: the very first steps build kernels and touch memory for the first
time, and would pass that off as what a pixel costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from model.config import BagelConfig
from server.engine.link import LocalLink
from server.engine.loop import Engine, Executor
from server.engine.pages import PagePool
from server.engine.scheduler import Scheduler
from server.messages import ImageParams, ImageSegment, OutputMode, Picture, Request, SamplingParams, Segment, TextSegment

TENANT = "calibration"
LIMIT_S = 1.0
NUM_ROUNDS = 4
CHATS_PER_ROUND = 3
DECODED_TOKENS = 8
FIRST_PROMPT_TOKENS = 8
GROWTH = 4
FIRST_IMAGE_STRIDES = 2


def calibrate(
    scheduler: Scheduler, runner: Executor, pool: PagePool, config: BagelConfig, clock: Callable[[], float] = time.monotonic
) -> None:
    """Run requests of growing size until the time is up or all have been run; a step that is under way then is taken to its end.

    How fast they were done says nothing of how fast a client's will be, and is forgotten, as is how long the first steps took.
    """
    _run_for_a_moment(scheduler, runner, pool, config, clock)
    scheduler.drain_rate.forget()
    scheduler.forget_service()


def _run_for_a_moment(scheduler: Scheduler, runner: Executor, pool: PagePool, config: BagelConfig, clock: Callable[[], float]) -> None:
    engine = Engine(scheduler, runner, pool, LocalLink())
    scheduler.costs.alone.forget()
    ends_s = clock() + LIMIT_S
    for requests in _rounds(config, pool.num_pages * pool.page_size // 2):
        for request in requests:
            engine.submit(request)
        while scheduler.has_work:
            engine.step()
            if clock() > ends_s:
                scheduler.abort_all()
        if clock() > ends_s:
            engine.step()  # says that they have ended, to nobody
            return


def _rounds(config: BagelConfig, max_rows: int) -> Iterator[list[Request]]:
    for number in range(NUM_ROUNDS):
        prompt_tokens = FIRST_PROMPT_TOKENS * GROWTH**number
        side = min(FIRST_IMAGE_STRIDES * 2**number * config.latent_stride, config.vae_transform.max_size)
        image = ImageParams(side, side, num_timesteps=3, interval=(0.0, 1.0))
        if CHATS_PER_ROUND * prompt_tokens > max_rows or prompt_tokens >= config.llm.max_positions:
            return
        yield [_request(f"chat-{number}-{k}", OutputMode.TEXT, [_words(k, prompt_tokens)], image) for k in range(CHATS_PER_ROUND)]
        yield [_request(f"picture-{number}", OutputMode.IMAGE, [_words(number, FIRST_PROMPT_TOKENS)], image)]
        yield [_request(f"edit-{number}", OutputMode.IMAGE, [_picture(side, config), _words(number, FIRST_PROMPT_TOKENS)], image)]


def _words(first_id: int, num_tokens: int) -> TextSegment:
    return TextSegment([first_id] * num_tokens)


def _picture(side: int, config: BagelConfig) -> ImageSegment:
    """Return a black picture to read."""
    vit_side = max(1, side // config.vit.patch_size) * config.vit.patch_size
    vit, vae = (Picture(length, length, bytes(3 * length * length)) for length in (vit_side, side))
    return ImageSegment(vit, vae)


def _request(name: str, mode: OutputMode, segments: list[Segment], image: ImageParams) -> Request:
    sampling = SamplingParams(max_tokens=DECODED_TOKENS, ignore_eos=True)
    return Request(name, segments, mode, sampling, image, tenant=TENANT)
