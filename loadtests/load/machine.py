"""Where a load test ran, in words for its report."""

from __future__ import annotations

import platform

import psutil


def machine() -> str:
    """Say where this ran, load of others included: a figure from a busy machine is not one from a quiet one."""
    load, _, _ = psutil.getloadavg()
    return f"{platform.machine()}, {psutil.cpu_count()} cores, client on the same machine, load average at the start {load:.1f}"
