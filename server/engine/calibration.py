"""Teaches the cost model before the first client comes: a few small requests of growing size, for a second at most.

They run on an account of their own, and what they leave in the prefix cache is the first to give way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from model.config import BagelConfig
from server.engine.link import LocalLink
from server.engine.loop import Engine, Executor
from server.engine.pages import PagePool
from server.engine.scheduler import Scheduler
from server.messages import ImageParams, OutputMode, Request, SamplingParams, TextSegment

TENANT = "calibration"
LIMIT_S = 1.0
NUM_ROUNDS = 4
CHATS_PER_ROUND = 3
DECODED_TOKENS = 8
FIRST_PROMPT_TOKENS = 8
GROWTH = 4
FIRST_IMAGE_STRIDES = 2


def calibrate(scheduler: Scheduler, runner: Executor, pool: PagePool, config: BagelConfig) -> None:
    """Run requests of growing size until the time is up or all have been run; a step that is under way then is taken to its end."""
    engine = Engine(scheduler, runner, pool, LocalLink())
    ends_s = time.monotonic() + LIMIT_S
    for requests in _rounds(config, pool.num_pages * pool.page_size // 2):
        for request in requests:
            engine.submit(request)
        while scheduler.has_work:
            engine.step()
            if time.monotonic() > ends_s:
                scheduler.abort_all()
        if time.monotonic() > ends_s:
            engine.step()  # says that they have ended, to nobody
            return


def _rounds(config: BagelConfig, max_rows: int) -> Iterator[list[Request]]:
    for number in range(NUM_ROUNDS):
        prompt_tokens = FIRST_PROMPT_TOKENS * GROWTH**number
        side = min(FIRST_IMAGE_STRIDES * 2**number * config.latent_stride, config.vae_transform.max_size)
        image = ImageParams(side, side, num_timesteps=3, interval=(0.0, 1.0))
        if CHATS_PER_ROUND * prompt_tokens > max_rows or prompt_tokens >= config.llm.max_positions:
            return
        yield [_request(f"chat-{number}-{k}", OutputMode.TEXT, k, prompt_tokens, image) for k in range(CHATS_PER_ROUND)]
        yield [_request(f"picture-{number}", OutputMode.IMAGE, number, FIRST_PROMPT_TOKENS, image)]


def _request(name: str, mode: OutputMode, first_id: int, num_tokens: int, image: ImageParams) -> Request:
    sampling = SamplingParams(max_tokens=DECODED_TOKENS, ignore_eos=True)
    return Request(name, [TextSegment([first_id] * num_tokens)], mode, sampling, image, tenant=TENANT)
