"""Threads that pass words on have short turns on the processor, those that compute long ones."""

from __future__ import annotations

import os
import platform
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from server.time_slices import LONG_SLICE_NS, SHORT_SLICE_NS, take_long_slices, take_short_slices


def slice_ns() -> int:
    """Return the calling thread's slice as the kernel states it."""
    text = Path(f"/proc/self/task/{threading.get_native_id()}/sched").read_text()
    (found,) = re.findall(r"^se\.slice\s*:\s*(\d+)", text, re.MULTILINE)
    return int(found)


def granted_ns(wanted_ns: int, usual_ns: int) -> int:
    """Linux grants slices of one's own from 6.12 on; before it takes the request and changes nothing."""
    major, minor = (int(part) for part in platform.release().split(".")[:2])
    return wanted_ns if (major, minor) >= (6, 12) else usual_ns


def slices_through_changes() -> tuple[int, int, int, int]:
    """Return a thread's slice: at first, short, that of a thread it then starts, and long."""
    usual = slice_ns()
    take_short_slices()
    short = slice_ns()
    with ThreadPoolExecutor(1) as heirs:
        inherited = heirs.submit(slice_ns).result()
    take_long_slices()
    return usual, short, inherited, slice_ns()


def test_a_thread_and_its_heirs_get_the_slices_they_ask_for() -> None:
    with ThreadPoolExecutor(1) as threads:
        usual, short, inherited, long = threads.submit(slices_through_changes).result()
    assert short == inherited == granted_ns(SHORT_SLICE_NS, usual)
    assert long == granted_ns(LONG_SLICE_NS, usual)


def test_a_slice_changes_neither_niceness_nor_policy() -> None:
    def before_and_after() -> tuple[tuple[int, int], tuple[int, int]]:
        os.setpriority(os.PRIO_PROCESS, 0, 3)
        before = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)
        take_short_slices()
        return before, (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0))

    with ThreadPoolExecutor(1) as threads:
        before, after = threads.submit(before_and_after).result()
    assert before == after == (3, os.SCHED_OTHER)
