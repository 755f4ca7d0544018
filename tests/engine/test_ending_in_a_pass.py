"""A process may end while a pass is beside its steps: what computes there is given up first, and the process ends well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 300
IN_A_PASS = """
import time
import torch
from kernels.native_kernels import native_kernels
from kernels.native_threads import set_native_threads
from server.engine.thread_beside import ThreadBeside

kernels, x, weight = native_kernels(), torch.randn(300, 256), torch.randn(1024, 256)

def endless():
    while True:
        kernels.linear(x, weight, None)
        torch.randn(100, 100) @ torch.randn(100, 100)
        yield

set_native_threads({num_threads})
thread = ThreadBeside(kernels.beside, {num_threads})
beside = thread.begin(endless())
assert not beside.help(time.monotonic() + 0.05)
{ending}
print("in the middle")
"""


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("ending", ["", "thread.close()", "thread.stand_still()", "del beside", "del beside, thread"])
def test_it_ends_without_a_word_of_it(ending: str, num_threads: int) -> None:
    script = IN_A_PASS.format(num_threads=num_threads, ending=ending)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.stdout == "in the middle\n"
    assert done.stderr == ""
    assert done.returncode == 0
