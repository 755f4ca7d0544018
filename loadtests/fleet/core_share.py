"""A fixed share of a core for a process and its children, by a control group of the kernel's (as root).

Replicas on one machine otherwise take cores from each other and from whoever asks them, so that more of them answer no more. Each with a
share of its own they are as fast as before however many there are, as on machines of their own, until the machine is full.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FIRST_VERSION = Path("/sys/fs/cgroup/cpu")
UNIFIED = Path("/sys/fs/cgroup")
PERIOD_US = 10_000
"""Of accounting: short, or a process that has used its share up would stand still for longer than between two words."""


@dataclass(frozen=True, slots=True)
class CoreShare:
    """A control group that bounds what its processes may use of the cores together."""

    directory: Path

    def entering(self, command: Sequence[str]) -> list[str]:
        """Return the command that moves itself into the group and then becomes ``command``."""
        return ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.directory / "cgroup.procs"), *command]


@contextmanager
def core_share(name: str, cores: float) -> Iterator[CoreShare]:
    """Make a group that may use ``cores`` cores; at the end no process may be left in it.

    Raises:
        OSError: this user may make no control groups, or the kernel has none for processors.
    """
    parent = FIRST_VERSION if FIRST_VERSION.is_dir() else UNIFIED
    directory = parent / f"plait-{os.getpid()}-{name}"
    directory.mkdir()
    try:
        quota_us = round(cores * PERIOD_US)
        if parent == FIRST_VERSION:
            (directory / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (directory / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (directory / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        yield CoreShare(directory)
    finally:
        directory.rmdir()
