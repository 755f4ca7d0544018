"""The threads of the native kernels: whoever takes a task, the results are the same bits, and nobody waits for an absent thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from kernels.native_kernels import NativeKernels
from kernels.native_threads import set_native_threads

NUM_OPERATIONS = 400
MANY_THREADS = 7
"""More than the cores of most machines that test, so that helpers come late, in the middle, and not at all."""


@pytest.fixture(autouse=True)
def as_many_threads_as_torch() -> Iterator[None]:
    yield
    set_native_threads(None)


@pytest.fixture
def operands() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(70, 130, generator=generator), torch.randn(301, 130, generator=generator)


def on_one_thread(kernels: NativeKernels, operands: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    set_native_threads(1)
    return kernels.linear(*operands, None)


def test_late_helpers_change_no_bit(kernels: NativeKernels, operands: tuple[torch.Tensor, torch.Tensor]) -> None:
    expected = on_one_thread(kernels, operands)
    set_native_threads(MANY_THREADS)
    assert all(torch.equal(kernels.linear(*operands, None), expected) for _ in range(NUM_OPERATIONS))


def test_every_operation_gives_the_same_bits_on_any_number_of_threads(kernels: NativeKernels) -> None:
    x, weight = torch.randn(300, 256), torch.randn(256)
    q, k, v = torch.randn(200, 3, 4, 64).unbind(1)
    operations: list[Callable[[], torch.Tensor]] = [
        lambda: kernels.rms_norm(x, weight, 1e-6),
        lambda: kernels.rms_norm(x.bfloat16(), weight.bfloat16(), 1e-6),
        lambda: kernels.silu_mul(x),
        lambda: kernels.silu_mul(x.bfloat16()),
        lambda: torch.cat(kernels.qk_norm_rope(q, k, weight[:64], weight[64:128], (q[:, 0].contiguous(), k[:, 0].contiguous()), 1e-6)),
        lambda: kernels.picture_attention(q, k, v, [0, 50, 200]),
    ]
    for operation in operations:
        set_native_threads(1)
        expected = operation()
        for num_threads in (2, MANY_THREADS):
            set_native_threads(num_threads)
            assert all(torch.equal(operation(), expected) for _ in range(50))


def test_threads_that_call_at_once_do_not_disturb_each_other(kernels: NativeKernels, operands: tuple[torch.Tensor, torch.Tensor]) -> None:
    expected = on_one_thread(kernels, operands)
    set_native_threads(2)
    same: list[bool] = []

    def call() -> None:
        with torch.no_grad():
            same.append(all(torch.equal(kernels.linear(*operands, None), expected) for _ in range(NUM_OPERATIONS)))

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 3


def test_a_forked_child_computes_on_threads_of_its_own(kernels: NativeKernels, operands: tuple[torch.Tensor, torch.Tensor]) -> None:
    expected = on_one_thread(kernels, operands)
    set_native_threads(2)
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
    set_native_threads(MANY_THREADS)
    kernels.linear(*operands, None)
    code = int("".join(f"{1 if number in (signal.SIGTERM, signal.SIGUSR1) else 0}" for number in range(64, 0, -1)), 2)
    helpers = [blocked for blocked in map(blocked_signals, os.listdir("/proc/self/task")) if blocked & code == code]
    assert len(helpers) >= MANY_THREADS - 1


def blocked_signals(thread: str) -> int:
    with open(f"/proc/self/task/{thread}/status") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("SigBlk"))
