"""What is computed beside the steps leaves processors in the middle of an operation, stands still, goes on, and nobody's bits change."""

from __future__ import annotations

import ctypes
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch

from kernels.native_beside import NativeBeside
from kernels.native_kernels import NativeKernels
from kernels.native_threads import set_native_threads

EVERY_THREAD = 256
NUM_PRODUCTS = 12
NUM_STEPS = 24
WAIT_S = 120.0
Operands = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(autouse=True)
def everything_is_as_before(kernels: NativeKernels) -> Iterator[None]:
    yield
    set_native_threads(None)
    kernels.beside.share_processors(EVERY_THREAD, EVERY_THREAD)


@pytest.fixture(scope="module")
def operands() -> Operands:
    """A product of some milliseconds, in many tasks."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(512, 512, generator=generator), torch.randn(2048, 512, generator=generator)


@dataclass(slots=True)
class Work:
    """A product computed again and again beside the steps."""

    kernels: NativeKernels
    operands: Operands
    expected: torch.Tensor
    is_done: ctypes.c_int = field(default_factory=lambda: ctypes.c_int(0))
    are_same: list[bool] = field(default_factory=list)

    def run(self) -> None:
        self.kernels.beside.compute_beside()
        with torch.inference_mode():
            while not self.is_done.value:
                self.are_same.append(torch.equal(self.kernels.linear(*self.operands, None), self.expected))

    def begin(self) -> threading.Thread:
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        return thread


@pytest.mark.parametrize("num_threads", [1, 2, 3, 7])
def test_whoever_helps_and_whenever_it_has_to_leave_the_bits_are_the_same(
    kernels: NativeKernels, operands: Operands, num_threads: int
) -> None:
    rng = random.Random(num_threads)
    set_native_threads(1)
    expected = kernels.linear(*operands, None)
    small = (operands[0][:4].clone(), operands[1])
    expected_small = kernels.linear(*small, None)
    set_native_threads(num_threads)
    work = Work(kernels, operands, expected)
    thread = work.begin()
    ends_s = time.monotonic() + WAIT_S
    steps_are_same: list[bool] = []
    while len(work.are_same) < NUM_PRODUCTS or len(steps_are_same) < NUM_STEPS:
        assert time.monotonic() < ends_s, "it does not go on"
        kernels.beside.share_processors(1, num_threads)
        kernels.beside.help_beside(time.monotonic() + rng.uniform(0.0, 4e-3), work.is_done)
        num_for_steps = rng.randint(1, num_threads)
        kernels.beside.share_processors(num_for_steps, num_threads - num_for_steps)
        steps_are_same += [torch.equal(kernels.linear(*small, None), expected_small) for _ in range(rng.randint(0, 3))]
    work.is_done.value = 1
    kernels.beside.share_processors(EVERY_THREAD, num_threads)
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert all(work.are_same)
    assert all(steps_are_same)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_with_no_thread_left_it_stands_still_in_the_middle_and_goes_on_later(
    kernels: NativeKernels, operands: Operands, num_threads: int
) -> None:
    set_native_threads(num_threads)
    work = Work(kernels, operands, kernels.linear(*operands, None))
    kernels.beside.share_processors(1, num_threads)
    thread = work.begin()
    wait_for(work, 3)
    kernels.beside.share_processors(EVERY_THREAD, 0)
    num_before = len(work.are_same)
    time.sleep(0.3)
    assert len(work.are_same) <= num_before + 1, "it ends the task it is at"
    kernels.beside.share_processors(1, num_threads)
    wait_for(work, num_before + 3)
    work.is_done.value = 1
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert all(work.are_same)


def wait_for(work: Work, num: int) -> None:
    ends_s = time.monotonic() + WAIT_S
    while len(work.are_same) < num:
        assert time.monotonic() < ends_s, "it does not go on"
        time.sleep(1e-3)


def test_help_ends_when_its_time_is_up_though_nothing_is_computed(kernels: NativeKernels) -> None:
    began_s = time.monotonic()
    kernels.beside.help_beside(began_s + 0.02, ctypes.c_int(0))
    assert time.monotonic() - began_s >= 0.02


def test_help_ends_at_once_when_the_work_is_done(kernels: NativeKernels) -> None:
    is_done = ctypes.c_int(0)
    timer = threading.Timer(0.05, lambda: setattr(is_done, "value", 1))
    timer.start()
    kernels.beside.help_beside(float("inf"), is_done)
    timer.join()


def test_time_that_never_comes_and_time_that_is_past_are_both_understood(kernels: NativeKernels) -> None:
    beside: NativeBeside = kernels.beside
    beside.help_beside(float("-inf"), ctypes.c_int(0))
    beside.help_beside(float("inf"), ctypes.c_int(1))


def test_steps_have_as_many_threads_as_they_are_allowed(kernels: NativeKernels, operands: Operands) -> None:
    """One that is allowed a single thread wakes nobody: its helpers compute nothing meanwhile."""
    set_native_threads(2)
    kernels.linear(*operands, None)
    kernels.beside.share_processors(1, 1)
    time.sleep(0.05)  # the helper goes to sleep
    mine_s, all_s = time.thread_time(), time.process_time()
    for _ in range(40):
        kernels.linear(*operands, None)
    mine_s, all_s = time.thread_time() - mine_s, time.process_time() - all_s
    assert all_s - mine_s < 0.3 * mine_s, "a helper would have as many of the tasks"
