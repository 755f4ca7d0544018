"""A GPU is given the very kernels that were compiled and checked ahead of time, whatever rows and tokens a step has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_attention_is_compiled_once_for_a_kind_of_tile_and_as_it_was_checked() -> None:
    """A plan's arrays lie one behind the other, so that where they begin hangs on how long the others are: each new alignment was a kernel
    of its own, compiled in the middle of serving while everybody waited, and none of them was the one that had been checked for spills.
    """
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.kernels.launched_variants"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    variants = dict(json.loads(line) for line in done.stdout.splitlines())
    assert [kernel for kernel, _ in variants["launched"]] == ["attention_kernel"] * 5 + ["merge_kernel", "write_pages_kernel"]
    assert variants["launched"] == variants["checked"]
