"""A work beside the steps: how far it is, how long it took, what it has come to, and how it is given up."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from kernels.native_kernels import native_kernels
from model.stepwise import Steps
from server.engine import thread_beside
from server.engine.thread_beside import Beside, ThreadBeside

PATIENCE_S = 300.0


@pytest.fixture(params=[1, 2, 5])
def thread(request: pytest.FixtureRequest) -> Iterator[ThreadBeside]:
    kernels = native_kernels()
    assert kernels is not None
    thread = ThreadBeside(kernels.beside, request.param)
    yield thread
    thread.close()


def counting(num_bits: int) -> Steps[int]:
    for _ in range(num_bits):
        yield
    return num_bits


def failing() -> Steps[int]:
    yield
    raise RuntimeError("the device has none of it")


def endless(beats: list[float]) -> Steps[int]:
    while True:
        beats.append(time.monotonic())
        time.sleep(1e-3)
        yield


def waiting_for(event: threading.Event) -> Steps[str]:
    yield
    event.wait(PATIENCE_S)
    return threading.current_thread().name


def until(is_so: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < ends_s
        time.sleep(1e-3)


def result_of(beside: Beside[int]) -> int:
    assert beside.help(time.monotonic() + PATIENCE_S)
    return beside.result()


def test_works_come_to_their_results_one_after_the_other(thread: ThreadBeside) -> None:
    assert [result_of(thread.begin(counting(num))) for num in (0, 3, 100)] == [0, 3, 100]


def test_what_a_work_raises_is_raised_where_its_result_is_taken(thread: ThreadBeside) -> None:
    beside = thread.begin(failing())
    assert beside.help(time.monotonic() + PATIENCE_S)
    with pytest.raises(RuntimeError, match="none of it"):
        beside.result()
    assert result_of(thread.begin(counting(2))) == 2, "and the next one is none the worse"


def test_it_goes_on_while_nobody_waits_for_it_and_waiting_ends_in_time(thread: ThreadBeside) -> None:
    event = threading.Event()
    beside = thread.begin(waiting_for(event))
    assert not beside.help(time.monotonic() + 0.01)
    event.set()
    assert beside.help(time.monotonic() + PATIENCE_S)
    assert beside.result() == "beside"


def test_neither_gradients_nor_other_threads_of_torch_are_beside_the_steps(thread: ThreadBeside) -> None:
    def look() -> Steps[tuple[bool, int]]:
        yield
        return torch.is_inference_mode_enabled(), torch.get_num_threads()

    beside = thread.begin(look())
    assert beside.help(time.monotonic() + PATIENCE_S)
    assert beside.result() == (True, 1)


def test_time_counts_by_how_many_threads_it_had() -> None:
    kernels = native_kernels()
    assert kernels is not None
    thread = ThreadBeside(kernels.beside, 4)
    event = threading.Event()
    beginning_s = time.monotonic()
    beside = thread.begin(waiting_for(event))
    begun_s = time.monotonic()
    time.sleep(0.2)
    helping_s = time.monotonic()
    beside.help(helping_s + 0.2)
    helped_s = time.monotonic()
    thread.stand_still()
    stood_s = time.monotonic()
    least_s, most_s = 0.5 * (helped_s - begun_s + 0.2), 0.5 * (stood_s - beginning_s + helped_s - helping_s)
    assert least_s - 1e-3 <= beside.seconds <= most_s + 1e-3, "half of it counts while it has two threads of four, all while it is helped"
    before_s = beside.seconds
    time.sleep(0.1)
    thread.leave_to_steps()
    assert beside.seconds == before_s, "it stood still"
    event.set()
    assert beside.help(time.monotonic() + PATIENCE_S)
    beside.result()
    thread.close()


def test_time_counts_until_it_was_done_and_not_until_somebody_looked(thread: ThreadBeside) -> None:
    began_s = time.monotonic()
    beside = thread.begin(counting(1))
    until(lambda: beside.help(0.0))
    done_s = time.monotonic()
    time.sleep(0.2)
    beside.result()
    assert beside.seconds < done_s - began_s + 0.1


def test_a_work_that_nobody_waits_for_any_more_is_given_up(thread: ThreadBeside) -> None:
    beats: list[float] = []
    beside = thread.begin(endless(beats))
    until(lambda: len(beats) > 3)
    del beside
    gc.collect()
    assert result_of(thread.begin(counting(2))) == 2


def test_a_work_that_hangs_is_waited_for(thread: ThreadBeside, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that went on with other steps would not be seen to hang; once the work goes on, they do."""
    event = threading.Event()
    beside = thread.begin(waiting_for(event))
    assert not beside.help(time.monotonic() - 1.0)
    monkeypatch.setattr(thread_beside, "HANGING_S", 0.1)
    monkeypatch.setattr(thread_beside, "LOOK_S", 0.01)
    time.sleep(0.2)
    began_s = time.monotonic()
    timer = threading.Timer(0.3, event.set)
    timer.start()
    assert beside.help(began_s)
    assert time.monotonic() - began_s >= 0.29
    timer.join()


def test_closing_gives_up_what_is_under_way(thread: ThreadBeside) -> None:
    beats: list[float] = []
    beside = thread.begin(endless(beats))
    until(lambda: len(beats) > 3)
    thread.close()
    num = len(beats)
    time.sleep(0.02)
    assert len(beats) == num
    assert beside.seconds >= 0.0


def test_threads_end_with_those_who_had_them() -> None:
    kernels = native_kernels()
    assert kernels is not None
    num_before = threading.active_count()
    for _ in range(20):
        ThreadBeside(kernels.beside, 2)
    gc.collect()
    until(lambda: threading.active_count() <= num_before)
