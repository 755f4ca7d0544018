"""What to call the machine at hand in the names of results."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

from loadtests.comparison.engines import Bench


def machine_name(bench: Bench) -> str:
    """Return a short name for the machine, fit for a directory."""
    name = f"{os.cpu_count()} cores {_processor()}"
    if bench.model.device.type == "cuda":
        name = torch.cuda.get_device_name(bench.model.device)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _processor() -> str:
    """Return the processor's name as the operating system gives it."""
    about = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", about.read_text(), re.MULTILINE) if about.exists() else None
    return found[1] if found else platform.machine()
