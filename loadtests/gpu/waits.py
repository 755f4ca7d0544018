"""How often the host waits for the device."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

ResultT = TypeVar("ResultT")


def counting_waits(work: Callable[[], ResultT], device: torch.device) -> tuple[ResultT, int]:
    """Do ``work``; return what it does and how often the host waited for the device meanwhile, as PyTorch sees it."""
    if device.type != "cuda":
        return work(), 0
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return result, sum("synchronizing" in str(one.message) for one in caught)
