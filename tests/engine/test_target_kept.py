"""The inter-token target on a virtual clock, with pictures saturating a machine of known speed: kept, and at what price to the pictures.

A decode step takes 5 ms, a picture's Euler step with its two rows about 80 ms in eight layers, as on a small CPU; every
duration is off by a few percent at random. A decode step every target's time takes its share of the machine, whatever the scheduler does:
the price is what pictures lose beyond it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest

from model.stepwise import CPU_CUT
from server.engine.batch import Batch, BatchResult
from server.engine.cost_model import Load
from server.engine.link import LocalLink
from server.engine.loop import Engine
from server.engine.options import SchedulerLimits
from server.engine.pages import PagePool
from server.engine.scheduler import Scheduler
from server.front import LEAST_TARGET_DECODES
from server.messages import ImageParams, OutputMode, SamplingParams, StepReport, TextSegment
from tests.clock import Clock
from tests.engine.fakes import FakeRunner, facts, make_request, picture_segment, refeed

COSTS = Load(4.5e-3, 1e-3, 3e-3, 1e-4, 1.5e-4, 1e-8, 5e-5, 5e-8, 5e-8)
NUM_LAYERS = 8
NOISE = 0.03
NUM_CHATS, NUM_PICTURES = 4, 4
SECONDS, WARM_SECONDS = 40.0, 10.0
PICTURE = ImageParams(256, 256, num_timesteps=17, interval=(0.0, 1.0))
DECODE_S = 5.0e-3
MAX_P99 = 1.2
MAX_LOSS = 0.15


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, and how it serves words beside pictures.

    Attributes:
        cold: how much longer than alone a decode step takes between a pass's bits; hiccups: the share of those that take twice as long.
        share_of_steps: the share of its processors that steps have beside a pass; beside: how much longer than alone they take there.
    """

    cold: float = 1.0
    hiccups: float = 0.0
    share_of_steps: float = 0.0
    beside: float = 1.0


class TimedRunner:
    """Computes nothing and takes the time that real work of the batch's load would take."""

    def __init__(self, clock: Clock, machine: Machine) -> None:
        self._clock = clock
        self._machine = machine
        self._under_way: TimedPass | TimedPassBeside | None = None
        self._rng = random.Random(5)
        self._results = FakeRunner(lambda _, __: 50)

    def execute(self, batch: Batch) -> BatchResult:
        result = self.result_of(batch)
        if isinstance(self._under_way, TimedPass) and self._under_way.result is None:
            result.execute_s *= self._machine.cold
        if not batch.load.mixed and self._rng.random() < self._machine.hiccups:
            result.execute_s *= 2.0
        if isinstance(self._under_way, TimedPassBeside) and batch.is_beside:
            result.execute_s *= self._machine.beside
            self._under_way.left_s -= (1.0 - self._machine.share_of_steps) * result.execute_s
        self._clock.now += result.execute_s
        return result

    def result_of(self, batch: Batch) -> BatchResult:
        result = self._results.execute(batch)
        self._results.batches.clear()
        result.execute_s = cost_of(batch.load) * self._rng.uniform(1.0 - NOISE, 1.0 + NOISE)
        return result

    def begin(self, batch: Batch) -> TimedPass | TimedPassBeside:
        result = self.result_of(batch)
        if self._machine.share_of_steps:
            assert batch.bits_per_layer == 1
            self._under_way = TimedPassBeside(self._clock, result)
        else:
            self._under_way = TimedPass(self._clock, result, NUM_LAYERS * batch.bits_per_layer)
        return self._under_way

    def forget(self, sequence_ids: list[int]) -> None:
        pass


class TimedPass:
    """A pass of equal bits."""

    def __init__(self, clock: Clock, result: BatchResult, num_bits: int) -> None:
        self._clock = clock
        self._outcome = result
        self._bit_s = result.execute_s / num_bits
        self._bits_left = num_bits
        self.result: BatchResult | None = None
        self.next_bit_s = 0.0

    def advance(self, until_s: float) -> bool:
        while self._bits_left:
            self._clock.now += self._bit_s
            self._bits_left -= 1
            self.next_bit_s = self._bit_s
            if self._bits_left and self._clock.now + self._bit_s > until_s:
                return False
        self.result = self._outcome
        return True


class TimedPassBeside:
    """A pass that goes on beside the steps, and has the machine whole while it is advanced."""

    next_bit_s = 0.0

    def __init__(self, clock: Clock, result: BatchResult) -> None:
        self._clock = clock
        self._outcome = result
        self.left_s = result.execute_s
        self.result: BatchResult | None = None

    def advance(self, until_s: float) -> bool:
        seconds = max(0.0, min(self.left_s, until_s - self._clock.now))
        self._clock.now += seconds
        self.left_s -= seconds
        if self.left_s > 0.0:
            return False
        self.result = self._outcome
        return True


def calibrate(scheduler: Scheduler) -> None:
    """Let it see a few steps of every kind before the first client comes, as an engine does."""
    for number in range(60):
        rows, tokens = number % 4 + 1, 64 * (number % 7 + 1)
        decodes = Load(und_tokens=rows, pairs=50 * rows, rows=rows, keys=50 * rows)
        pictures = Load(1, 1, 1, 2 * rows, rows * tokens, rows * tokens * tokens, rows, keys=20 * rows)
        for load in (decodes, pictures, decodes.joined(pictures), Load(1, 1, 0, tokens, pairs=tokens * tokens / 2, rows=1)):
            scheduler.costs.alone.observe(load, cost_of(load))


def cost_of(load: Load) -> float:
    return sum(seconds * amount for seconds, amount in zip(COSTS, load, strict=True))


@dataclass(frozen=True, slots=True)
class Served:
    """The gaps between the words of a chat, and denoise rows a second."""

    p99_s: float
    rows_per_s: float


class Crowd:
    """Chats that never end and pictures that are replaced as they finish, on one engine."""

    def __init__(self, target_s: float | None, machine: Machine) -> None:
        self.clock = Clock()
        pool = PagePool(60_000, 16)
        limits = SchedulerLimits(
            max_batch_tokens=4096, max_running=32, inter_token_target_s=target_s, min_target_decodes=LEAST_TARGET_DECODES
        )
        of_model = replace(facts(), num_layers=NUM_LAYERS, most_bits=CPU_CUT.num_bits, share_of_steps=machine.share_of_steps)
        scheduler = Scheduler(pool, of_model, limits, refeed, clock=self.clock)
        calibrate(scheduler)
        self._engine = Engine(scheduler, TimedRunner(self.clock, machine), pool, LocalLink())
        self._num_pictures = 0
        for number in range(NUM_CHATS):
            endless = SamplingParams(max_tokens=1_000_000, ignore_eos=True)
            self._engine.submit(make_request(f"chat{number}", [TextSegment([number] * 20)], sampling=endless))
        for _ in range(NUM_PICTURES):
            self._draw_one_more()

    def _draw_one_more(self) -> None:
        self._engine.submit(make_request(f"picture{self._num_pictures}", mode=OutputMode.IMAGE, image=PICTURE))
        self._num_pictures += 1

    def step(self) -> StepReport | None:
        report = self._engine.step()
        for _ in report.finished if report is not None else ():
            self._draw_one_more()
        return report


def serve(target_s: float | None, machine: Machine = Machine()) -> Served:
    """Keep a crowd busy and measure it once the cost model has learnt."""
    crowd = Crowd(target_s, machine)
    last: dict[str, float] = {}
    gaps: list[float] = []
    num_rows = 0
    while crowd.clock.now < SECONDS:
        began_s = crowd.clock.now
        report = crowd.step()
        if report is None or began_s < WARM_SECONDS:
            continue
        now_s = crowd.clock.now
        num_rows += report.stats.num_denoise_rows
        gaps += [now_s - last[token.request_id] for token in report.tokens if token.request_id in last]
        last.update((token.request_id, now_s) for token in report.tokens)
    return Served(sorted(gaps)[int(0.99 * len(gaps))], num_rows / (SECONDS - WARM_SECONDS))


@pytest.fixture(scope="module")
def free() -> Served:
    """The same crowd without a target."""
    return serve(None)


@pytest.mark.parametrize("multiple", [2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0])
def test_the_target_is_kept_and_pictures_lose_little_beyond_the_decode_steps(free: Served, multiple: float) -> None:
    target_s = multiple * DECODE_S

    served = serve(target_s)

    share_left = 1.0 - 1.0 / multiple
    assert served.p99_s <= MAX_P99 * target_s
    assert served.rows_per_s >= (1.0 - MAX_LOSS) * share_left * free.rows_per_s


@pytest.mark.parametrize("multiple", [2.0, 3.0, 5.0, 8.0, 10.0])
def test_the_target_is_kept_where_decode_steps_between_bits_are_slower(multiple: float) -> None:
    """The caches are cold there: a decode step takes a third longer than the one that the target was set by."""
    assert serve(multiple * DECODE_S, Machine(cold=1.33)).p99_s <= MAX_P99 * multiple * DECODE_S


@pytest.mark.parametrize("multiple", [3.0, 5.0, 8.0, 10.0])
def test_the_target_is_kept_where_a_few_decode_steps_take_twice_as_long(multiple: float) -> None:
    """One in thirty: too few to be planned for as usual, too many for one word in a hundred. Two decode steps leave no room for it."""
    assert serve(multiple * DECODE_S, Machine(hiccups=1 / 30)).p99_s <= MAX_P99 * multiple * DECODE_S


@pytest.mark.parametrize("multiple", [2.0, 3.0, 5.0, 8.0, 10.0])
def test_beside_a_pass_words_cost_pictures_their_share_of_the_machine_and_little_more(free: Served, multiple: float) -> None:
    """Half of the processors take 1.6 times as long: four fifths of a decode step alone. Passes of one picture have a fixed cost each."""
    machine = Machine(share_of_steps=0.5, beside=1.6)

    served = serve(multiple * DECODE_S, machine)

    assert served.p99_s <= MAX_P99 * multiple * DECODE_S
    share_left = 1.0 - machine.share_of_steps * machine.beside / multiple
    assert served.rows_per_s >= (1.0 - MAX_LOSS) * share_left * free.rows_per_s


def test_without_a_target_words_wait_for_pictures(free: Served) -> None:
    assert free.p99_s > 10 * DECODE_S


def test_a_prompt_with_a_picture_does_not_stand_aside_with_the_pictures_that_are_drawn() -> None:
    """It is words that somebody waits for: it takes turns with the words of others, bit by bit."""
    clock = Clock()
    pool = PagePool(60_000, 16)
    limits = SchedulerLimits(max_batch_tokens=4096, max_running=32, inter_token_target_s=5 * DECODE_S)
    scheduler = Scheduler(pool, replace(facts(), num_layers=NUM_LAYERS, most_bits=CPU_CUT.num_bits), limits, refeed, clock=clock)
    engine = Engine(scheduler, TimedRunner(clock, Machine()), pool, LocalLink())
    endless = SamplingParams(max_tokens=1_000_000, ignore_eos=True)
    engine.submit(make_request("chat", [TextSegment([7] * 20)], sampling=endless))
    engine.submit(make_request("picture", mode=OutputMode.IMAGE, image=replace(PICTURE, num_timesteps=101)))
    scheduler.words_first.note_idle(5.0)
    while clock.now < 0.5:
        engine.step()
    assert scheduler.do_words_go_first
    began_s = clock.now
    engine.submit(make_request("shown", [picture_segment(512, 512)], sampling=endless))

    report = None
    while report is None or all(token.request_id != "shown" for token in report.tokens):
        report = engine.step()

    assert clock.now - began_s < 1.0
    assert scheduler.do_words_go_first, "the picture still stood aside"
