"""Who computes on the CPU's threads."""

from __future__ import annotations

import torch

from kernels.native_kernels import native_kernels
from kernels.native_threads import native_threads, set_native_threads
from server.engine.thread_beside import ThreadBeside


def computes_natively(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the C kernels do all of the forward pass."""
    return device.type == "cpu" and dtype is torch.float32 and native_kernels() is not None


def thread_beside(device: torch.device, dtype: torch.dtype) -> ThreadBeside | None:
    """Return the thread that long passes are taken on beside the steps; None where only the C kernels could leave others a processor."""
    native = native_kernels() if computes_natively(device, dtype) else None
    return None if native is None else ThreadBeside(native.beside, native_threads())


def share_threads(num_threads: int | None, device: torch.device, dtype: torch.dtype) -> None:
    """Give the forward pass its CPU threads: the C kernels' own where they do all of it, otherwise PyTorch's.

    PyTorch's wait for each other at the end of every operation, also for one that had no processor to begin on: beside busy neighbours its
    few small operations would take longer than all the rest.
    """
    if computes_natively(device, dtype):
        set_native_threads(num_threads or native_threads())
        torch.set_num_threads(1)
    elif num_threads is not None:
        torch.set_num_threads(num_threads)
