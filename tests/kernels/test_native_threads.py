"""The threads of the native kernels: whoever takes a task, the results are the same bits, and nobody waits for an absent thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

import pytest
import torch

from kernels.native_kernels import NativeKernels, native_kernels

NUM_OPERATIONS = 400
MANY_THREADS = 7
"""More than the cores of most machines that test, so that helpers come late, in the middle, and not at all."""


@pytest.fixture
def kernels() -> NativeKernels:
    kernels = native_kernels()
    assert kernels is not None
    return kernels


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def operands() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(70, 130, generator=generator), torch.randn(301, 130, generator=generator)


def on_one_thread(kernels: NativeKernels, operands: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    torch.set_num_threads(1)
    return kernels.linear(*operands, None)


def test_late_helpers_change_no_bit(kernels: NativeKernels, operands: tuple[torch.Tensor, torch.Tensor]) -> None:
    expected = on_one_thread(kernels, operands)
    torch.set_num_threads(MANY_THREADS)
    assert all(torch.equal(kernels.linear(*operands, None), expected) for _ in range(NUM_OPERATIONS))


def test_threads_that_call_at_once_do_not_disturb_each_other(kernels: NativeKernels, operands: tuple[torch.Tensor, torch.Tensor]) -> None:
    expected = on_one_thread(kernels, operands)
    torch.set_num_threads(2)
    same: list[bool] = []

    def call() -> None:
        with torch.no_grad():
            torch.set_num_threads(2)
            same.append(all(torch.equal(kernels.linear(*operands, None), expected) for _ in range(NUM_OPERATIONS)))

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 3


def test_a_forked_child_computes_on_threads_of_its_own(kernels: NativeKernels, operands: tuple[torch.Tensor, torch.Tensor]) -> None:
    expected = on_one_thread(kernels, operands)
    torch.set_num_threads(2)
    kernels.linear(*operands, None)

    def compute() -> None:
        for _ in range(NUM_OPERATIONS):
            if not torch.equal(kernels.linear(*operands, None), expected):
                os._exit(1)
        os._exit(0 if len(os.listdir("/proc/self/task")) > 1 else 2)

    child = multiprocessing.get_context("fork").Process(target=compute)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_signals_are_for_the_threads_that_were_there_before(kernels: NativeKernels, operands: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.set_num_threads(MANY_THREADS)
    kernels.linear(*operands, None)
    code = int("".join(f"{1 if number in (signal.SIGTERM, signal.SIGUSR1) else 0}" for number in range(64, 0, -1)), 2)
    helpers = [blocked for blocked in map(blocked_signals, os.listdir("/proc/self/task")) if blocked & code == code]
    assert len(helpers) >= MANY_THREADS - 1


def blocked_signals(thread: str) -> int:
    with open(f"/proc/self/task/{thread}/status") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("SigBlk"))
