"""Pictures stand aside for words while the machine has time for both, and never for longer than an even share would cost them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from server.engine.batch import Batch
from server.engine.cost_model import Load
from server.engine.options import SchedulerLimits
from server.engine.pages import PagePool
from server.engine.scheduler import Scheduler
from server.messages import ImageParams, ImageSegment, OutputMode, SamplingParams, TextSegment
from tests.engine.fakes import FakeRunner, facts, grey, make_request, refeed

TARGET_S = 0.05
COSTS = Load(4e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-9, 1e-5, 1e-8, 1e-8)
PICTURE = ImageParams(256, 256, num_timesteps=9, interval=(0.0, 1.0), text_scale=1.0)
EULER_S = 8 * 0.033
"""What a picture takes alone: eight steps of one row of 258 tokens."""
ORDINARY_ID = 50


@dataclass(slots=True)
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class House:
    """A scheduler that knows what steps cost, on a clock that they move."""

    def __init__(self, *, num_pages: int = 2000, costs: Load = COSTS) -> None:
        self.clock = Clock()
        self._costs = costs
        limits = SchedulerLimits(4096, 16, inter_token_target_s=TARGET_S)
        self.scheduler = Scheduler(PagePool(num_pages, 16), facts(), limits, refeed, clock=self.clock)
        self._runner = FakeRunner(lambda _, __: ORDINARY_ID)
        for size in range(1, 40):
            load = Load(1, size % 2, size % 2, size % 7 + 1, 10 * (size % 5), 100 * size, size % 3 + 1, 64 * (size % 4), 64 * (size % 6))
            self.scheduler.cost.observe(load, cost_of(load, costs))

    def shown(self, name: str) -> None:
        """Submit a chat about a picture of 400 tokens, whose prompt takes longer than the target allows a step."""
        self.scheduler.submit(make_request(name, [ImageSegment(vit=grey(320, 320), vae=None), TextSegment([9])]))

    def chat(self, name: str, num_tokens: int = 10_000, prompt_tokens: int = 3) -> None:
        sampling = SamplingParams(max_tokens=num_tokens, ignore_eos=True)
        self.scheduler.submit(make_request(name, [TextSegment([9] * prompt_tokens)], sampling=sampling))

    def picture(self, name: str, tenant: str = "t", num_timesteps: int = PICTURE.num_timesteps) -> None:
        image = replace(PICTURE, num_timesteps=num_timesteps)
        self.scheduler.submit(replace(make_request(name, mode=OutputMode.IMAGE, image=image), tenant=tenant))

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


def test_a_short_answer_is_written_at_full_pace_beside_a_picture() -> None:
    house = House()
    house.picture("p")
    for _ in range(3):
        house.step()
    house.chat("a", num_tokens=30)

    batches = [house.step() for _ in range(31)]

    assert not any(batch.denoises for batch in batches)
    assert not any(other.request.request_id == "a" for other in house.scheduler.running)


def test_a_prompt_of_words_goes_before_a_picture_that_was_there_first() -> None:
    house = House()
    house.picture("p")
    for _ in range(3):
        house.step()
    house.chat("a", prompt_tokens=200)

    batch = house.step()

    assert batch.prefills
    assert not batch.denoises


def test_an_endless_answer_makes_a_picture_take_seven_tenths_longer() -> None:
    house = House()
    house.chat("a")
    house.picture("p")

    seconds = house.seconds_until_drawn("p")

    assert 1.6 * EULER_S < seconds < 2.1 * EULER_S


def test_a_picture_stands_aside_as_long_whether_its_tokens_or_their_pairs_cost_its_time() -> None:
    """It was counted in what the cost model held a token for, which is nothing where pairs account for all, and then it hardly did."""
    by_pairs = COSTS._replace(gen_tokens=0.0, pairs=COSTS.gen_tokens / 258)
    seconds = []
    for costs in (COSTS, by_pairs):
        house = House(costs=costs)
        house.chat("a")
        house.picture("p")
        seconds.append(house.seconds_until_drawn("p"))

    assert abs(seconds[0] / seconds[1] - 1.0) < 0.1


def test_where_three_pictures_queue_none_of_them_stands_aside() -> None:
    house = House()
    house.chat("a")
    for name in "pqr":
        house.picture(name)
    house.step()

    batches = [house.step() for _ in range(PICTURE.num_timesteps - 1)]

    assert all(batch.denoises and batch.decodes for batch in batches)


def test_an_idle_machine_has_time_for_words_whoever_queues() -> None:
    house = House()
    house.clock.now += 1.0
    house.chat("a", num_tokens=30)
    for name in "pqr":
        house.picture(name)

    batches = [house.step() for _ in range(31)]

    assert not any(batch.denoises for batch in batches)


def test_idleness_is_spent_on_words_and_then_it_is_gone() -> None:
    house = House()
    house.clock.now += 0.1
    house.chat("a")
    for name in "pqr":
        house.picture(name)
    seconds = 0.0
    while not (batch := house.step()).denoises:
        seconds += cost_of(batch.load)

    assert 0.1 <= seconds < 0.12


def test_an_idle_machine_lets_words_through_after_every_bit_of_a_prompt_until_that_time_is_spent() -> None:
    """A word came at the pace of the target then, however idle the machine: on a quiet server the slowest by far."""
    house = House()
    house.clock.now += 0.1
    house.chat("a")
    house.step()
    house.step()
    house.shown("b")
    assert house.scheduler.schedule().is_divisible

    seconds = 0.0
    while (batch := house.step_between()).decodes:
        seconds += cost_of(batch.load)

    assert 0.1 <= seconds < 0.11


def test_a_machine_that_was_not_idle_lets_words_through_a_prompt_when_the_target_wants_them() -> None:
    house = House()
    house.chat("a")
    house.step()
    house.step()
    house.shown("b")
    assert house.scheduler.schedule().is_divisible

    assert house.step_between().is_empty
    house.clock.now += TARGET_S
    assert house.step_between().decodes


def test_a_tenant_owes_nothing_for_what_it_took_while_nobody_else_was_there() -> None:
    house = House()
    house.picture("early", tenant="greedy")
    house.seconds_until_drawn("early")
    house.picture("long", tenant="other")
    house.picture("short", tenant="greedy", num_timesteps=3)

    assert house.seconds_until_drawn("short") < 0.5 * EULER_S


def test_a_picture_that_holds_the_pages_words_want_goes_on() -> None:
    house = House(num_pages=6)
    house.picture("p")
    for _ in range(3):
        house.step()
    house.chat("a", num_tokens=60)

    assert house.seconds_until_drawn("p") > 0
