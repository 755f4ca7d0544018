"""The engine loop waits for messages only when there is nothing else to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, cycle, repeat

import pytest

from server.engine.batch import Batch
from server.engine.launched_step import LaunchedStep
from server.engine.link import Incoming, LocalLink
from server.engine.loop import IDLE_WAIT_S, STUCK_WAIT_S, DividedPass, Engine
from server.engine.options import SchedulerLimits
from server.engine.pages import PagePool
from server.engine.scheduler import Scheduler
from server.messages import OutputMode, SamplingParams, Shutdown
from tests.engine.fakes import EOS, FakeRunner, facts, make_request, refeed

NUM_ROUNDS = 12
NUM_TOKENS = 100


class NotingLink(LocalLink):
    """Notes how long it is told to wait, and says to shut down in round ``NUM_ROUNDS``."""

    def __init__(self) -> None:
        super().__init__()
        self.waits_s: list[float] = []

    def receive(self, timeout_s: float) -> list[Incoming]:
        self.waits_s.append(timeout_s)
        return [Shutdown()] if len(self.waits_s) == NUM_ROUNDS else super().receive(timeout_s)


@dataclass(slots=True)
class WholeRunner(FakeRunner):
    """Without a target no pass is divided."""

    def begin(self, batch: Batch) -> DividedPass:
        raise AssertionError("a pass was divided")


class Hesitant(Scheduler):
    """Makes empty steps, though there is work, where ``hesitations`` says so."""

    hesitations: Iterator[bool] = repeat(False)

    def schedule(self) -> Batch:
        return Batch() if next(self.hesitations) else super().schedule()


class AtOnce:
    """Launches what is done by then."""

    def __init__(self, runner: FakeRunner) -> None:
        self._runner = runner
        self.decodes_beside = False

    def launch(self, batch: Batch) -> LaunchedStep:
        return LaunchedStep(lambda: None, partial(self._runner.execute, batch))


def waits_with(hesitations: Iterator[bool], *, has_chat: bool = True, launches: bool = False) -> list[float]:
    """Run an engine with a chat for `NUM_ROUNDS` rounds; return how long it would wait for messages in each."""
    pool, link = PagePool(200, 4), NotingLink()
    scheduler = Hesitant(pool, facts(), SchedulerLimits(max_batch_tokens=64, max_running=8), refeed)
    scheduler.hesitations = hesitations
    if has_chat:
        link.push(make_request("chat", sampling=SamplingParams(max_tokens=NUM_TOKENS)))
    runner = WholeRunner(lambda _, __: 50)
    Engine(scheduler, runner, pool, link, AtOnce(runner) if launches else None).run()
    return link.waits_s


def test_what_there_is_to_say_is_said_though_nothing_was_done() -> None:
    """A text that another engine had just closed was never closed for its client when it was taken up while a long pass went on."""
    pool, link = PagePool(200, 4), LocalLink()
    scheduler = Hesitant(pool, facts(), SchedulerLimits(max_batch_tokens=64, max_running=8), refeed)
    scheduler.hesitations = repeat(True)
    engine = Engine(scheduler, WholeRunner(lambda _, __: 50), pool, link)
    told = make_request("told", mode=OutputMode.ALTERNATE, sampling=SamplingParams(max_tokens=9))
    engine.submit(replace(told, canon=[21, EOS]))

    engine.step()

    assert [closed.request_id for report in link.reports for closed in report.closed] == ["told"]


def test_an_idle_engine_waits_for_messages() -> None:
    assert waits_with(repeat(False), has_chat=False) == [IDLE_WAIT_S] * NUM_ROUNDS


def test_an_engine_with_steps_to_make_does_not_wait_for_messages() -> None:
    first, *others = waits_with(repeat(False))

    assert first == IDLE_WAIT_S
    assert set(others) == {0.0}


def test_one_step_that_finds_nothing_to_do_does_not_delay_the_next() -> None:
    assert set(waits_with(cycle([True, False]))[1:]) == {0.0}


def test_an_engine_that_cannot_serve_whoever_waits_lets_messages_come_in_between() -> None:
    """It asked for step after step, as fast as it could."""
    waits_s = waits_with(repeat(True))

    assert waits_s == [IDLE_WAIT_S, 0.0, *[STUCK_WAIT_S] * (NUM_ROUNDS - 2)]


@pytest.mark.parametrize("launches", [False, True])
def test_an_engine_that_has_found_something_to_do_again_does_not_wait_any_more(launches: bool) -> None:
    """One whose steps are launched went on waiting a millisecond before each."""
    waits_s = waits_with(chain([True, True], repeat(False)), launches=launches)

    assert waits_s == [IDLE_WAIT_S, 0.0, STUCK_WAIT_S, *[0.0] * (NUM_ROUNDS - 3)]
