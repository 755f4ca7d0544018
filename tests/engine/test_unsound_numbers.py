"""Numbers that are not finite end the request they belong to, and no other."""

from __future__ import annotations

from pathlib import Path

import torch

from server.engine.link import LocalLink
from server.engine.options import EngineOptions
from server.engine.process import load_engine
from server.engine.runner import seeded_noise
from server.messages import FinishReason, ImageParams, OutputMode, SamplingParams
from tests.engine.fakes import make_request

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
BAD_SEED = 13


def noise_with_a_bad_seed(seed: int, image_index: int, num_tokens: int, channels: int) -> torch.Tensor:
    noise = seeded_noise(seed, image_index, num_tokens, channels)
    return noise * float("nan") if seed == BAD_SEED else noise


def test_a_picture_of_unsound_numbers_fails_alone() -> None:
    link = LocalLink()
    loaded = load_engine(EngineOptions(str(CHECKPOINT), num_pages=512, num_threads=1), link, noise_with_a_bad_seed)
    for name, seed in (("good", 1), ("bad", BAD_SEED)):
        image = ImageParams(32, 32, num_timesteps=3, seed=seed)
        loaded.engine.submit(make_request(name, mode=OutputMode.IMAGE, sampling=SamplingParams(), image=image))
    while loaded.scheduler.has_work:
        loaded.engine.step()
    ends = {end.request_id: end.reason for report in link.reports for end in report.finished}
    drawn = {image.request_id for report in link.reports for image in report.images}
    assert ends == {"good": FinishReason.STOP, "bad": FinishReason.ERROR}
    assert drawn == {"good"} and loaded.pool.num_used == 0
