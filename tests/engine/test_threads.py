"""The forward pass has its threads once: the C kernels' own where they do all of it, PyTorch's elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from kernels.native_threads import native_threads, set_native_threads
from server.engine.threads import share_threads

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    set_native_threads(None)
    torch.set_num_threads(before)


def test_in_float32_the_kernels_have_them_and_torch_one() -> None:
    share_threads(3, CPU, torch.float32)
    assert (native_threads(), torch.get_num_threads()) == (3, 1)


def test_in_bfloat16_torch_multiplies_and_has_them() -> None:
    share_threads(3, CPU, torch.bfloat16)
    assert (native_threads(), torch.get_num_threads()) == (3, 3)


def test_a_second_engine_in_the_process_has_as_many_as_the_first() -> None:
    torch.set_num_threads(2)
    share_threads(None, CPU, torch.float32)
    share_threads(None, CPU, torch.float32)
    assert (native_threads(), torch.get_num_threads()) == (2, 1)
