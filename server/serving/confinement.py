"""What a worker process gives up before its first job: what a stranger's bytes could make of it is worth little to the stranger."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

PR_SET_NO_NEW_PRIVS = 38
"""From linux/prctl.h."""
OOM_SCORE = Path("/proc/self/oom_score_adj")
FIRST_TO_GO = "1000"
"""Where memory runs out, the kernel ends a worker, which costs one job, before the engine, which costs all; see proc(5)."""


def give_up_everything_else(memory_bytes: int, *, has_threads: bool) -> None:
    """Give up new file descriptors (no file can be opened, no connection made), written files, core dumps, new privileges, memory beyond
    ``memory_bytes`` of address space, and new processes, unless the work ``has_threads``, which count as such; and its claim to memory
    where that runs out."""
    with contextlib.suppress(OSError):
        OOM_SCORE.write_text(FIRST_TO_GO)
    num_open = sys.stderr.fileno() + 1
    bounds = {
        resource.RLIMIT_NOFILE: num_open,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_AS: memory_bytes,
    }
    for limit, bound in bounds.items() if has_threads else {**bounds, resource.RLIMIT_NPROC: 0}.items():
        resource.setrlimit(limit, (bound, bound))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
