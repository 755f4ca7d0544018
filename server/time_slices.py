"""How long the kernel lets a thread run before another has its turn: short turns for those who pass words on, long ones for computing.

On a machine with as many compute threads as cores, a front or a client that wakes for a token otherwise waits for the end of a compute
thread's turn, several milliseconds: tokens arrive in bunches. A thread with a shorter slice than the running one takes the processor
when it wakes (Linux 6.12 and later, sched_setattr(2), where ``sched_runtime`` of a normal thread is its slice); its share of the
processor stays the same, and no privilege is needed. Elsewhere nothing happens. Threads and processes inherit the slice of who starts
them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

SHORT_SLICE_NS = 100_000
"""The shortest that the kernel grants."""

LONG_SLICE_NS = 20_000_000
"""Above every default, so that whoever has not asked for a slice, such as a client beside the server, comes first as well."""

SYSCALL_NUMBERS = {"x86_64": 314, "aarch64": 274}


class _SchedAttr(ctypes.Structure):
    """The kernel's ``struct sched_attr``, in its first version (linux/sched/types.h)."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("sched_policy", ctypes.c_uint32),
        ("sched_flags", ctypes.c_uint64),
        ("sched_nice", ctypes.c_int32),
        ("sched_priority", ctypes.c_uint32),
        ("sched_runtime", ctypes.c_uint64),
        ("sched_deadline", ctypes.c_uint64),
        ("sched_period", ctypes.c_uint64),
    )


def take_short_slices() -> None:
    """Let this thread, and those it starts, run as soon as they wake."""
    _set_slice(SHORT_SLICE_NS)


def take_long_slices() -> None:
    """Let this thread, and those it starts, compute in long turns, and make way for whoever wakes."""
    _set_slice(LONG_SLICE_NS)


def _set_slice(slice_ns: int) -> None:
    """Ask for it; a kernel that refuses (its answer is not looked at) leaves everything as it was."""
    number = SYSCALL_NUMBERS.get(platform.machine())
    if sys.platform != "linux" or number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _SchedAttr(ctypes.sizeof(_SchedAttr), os.SCHED_OTHER, 0, nice, 0, slice_ns, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, ctypes.byref(attributes), 0)
