"""A scheduler that knows what steps cost, on a clock that they move."""

from __future__ import annotations

from dataclasses import replace

from server.engine.batch import Batch
from server.engine.cost_model import Load
from server.engine.options import SchedulerLimits
from server.engine.pages import PagePool
from server.engine.scheduler import Scheduler
from server.messages import ImageParams, ImageSegment, OutputMode, SamplingParams, TextSegment
from tests.clock import Clock
from tests.engine.fakes import FakeRunner, facts, grey, make_request, refeed

TARGET_S = 0.05
COSTS = Load(4e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-9, 1e-5, 1e-8, 1e-8)
PICTURE = ImageParams(256, 256, num_timesteps=9, interval=(0.0, 1.0), text_scale=1.0)
EULER_S = 8 * 0.033
"""What a picture takes alone: eight steps of one row of 258 tokens."""
ORDINARY_ID = 50


class KnownCosts:
    """The scheduler, its clock, and a runner whose every step takes what its load costs."""

    def __init__(self, *, num_pages: int = 2000, costs: Load = COSTS) -> None:
        self.clock = Clock()
        self._costs = costs
        limits = SchedulerLimits(4096, 16, inter_token_target_s=TARGET_S)
        self.scheduler = Scheduler(PagePool(num_pages, 16), facts(), limits, refeed, clock=self.clock)
        self._runner = FakeRunner(lambda _, __: ORDINARY_ID)
        for size in range(1, 40):
            load = Load(1, size % 2, size % 2, size % 7 + 1, 10 * (size % 5), 100 * size, size % 3 + 1, 64 * (size % 4), 64 * (size % 6))
            self.scheduler.costs.alone.observe(load, cost_of(load, costs))

    def shown(self, name: str) -> None:
        """Submit a chat about a picture of 400 tokens, whose prompt takes longer than the target allows a step."""
        self.scheduler.submit(make_request(name, [ImageSegment(vit=grey(320, 320), vae=None), TextSegment([9])]))

    def chat(self, name: str, num_tokens: int = 10_000, prompt_tokens: int = 3, word: int = 9, weight: float = 1.0) -> None:
        sampling = SamplingParams(max_tokens=num_tokens, ignore_eos=True)
        self.scheduler.submit(replace(make_request(name, [TextSegment([word] * prompt_tokens)], sampling=sampling), weight=weight))

    def picture(
        self, name: str, tenant: str = "t", num_timesteps: int = PICTURE.num_timesteps, prompt_tokens: int = 3, weight: float = 1.0
    ) -> None:
        image, prompt = replace(PICTURE, num_timesteps=num_timesteps), TextSegment([9] * prompt_tokens)
        request = make_request(name, [prompt], OutputMode.IMAGE, image=image)
        self.scheduler.submit(replace(request, tenant=tenant, weight=weight))

    def step(self) -> Batch:
        return self._run(self.scheduler.schedule())

    def step_between(self) -> Batch:
        """Run what is let through before the next bit of a long pass, which is short."""
        return self._run(self.scheduler.schedule_between(1e-3))

    def _run(self, batch: Batch) -> Batch:
        if batch.is_empty:
            return batch
        result = self._runner.execute(batch)
        result.execute_s = cost_of(batch.load, self._costs)
        self.clock.now += result.execute_s
        self.scheduler.commit(batch, result)
        return batch

    def seconds_until_drawn(self, name: str) -> float:
        began_s = self.clock.now
        while self.scheduler.has_work:
            self.step()
            outputs = self.scheduler.take_outputs()
            if any(image.request_id == name for image in outputs.images):
                return self.clock.now - began_s
        raise AssertionError(f"{name} was never drawn")


def cost_of(load: Load, costs: Load = COSTS) -> float:
    return sum(seconds * amount for seconds, amount in zip(costs, load, strict=True))
