"""A process may end while a pass is beside its steps: what computes there is given up first, and the process ends well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IN_A_PASS = """
from pathlib import Path
from server.engine.link import LocalLink
from server.engine.loop import Engine
from server.engine.options import EngineOptions
from server.engine.process import load_engine
from server.messages import ImageParams, OutputMode, Request, SamplingParams, TextSegment
from kernels.native_threads import set_native_threads

set_native_threads({num_threads})
options = EngineOptions(str(Path("tests/golden/tiny_a")), num_pages=2048, inter_token_target_s=1e-6)
loaded = load_engine(options, LocalLink())
begun = []
begin = loaded.runner.begin
loaded.runner.begin = lambda batch: begun.append(begin(batch)) or begun[-1]
chat = SamplingParams(max_tokens=100_000, ignore_eos=True)
loaded.engine.submit(Request("chat", [TextSegment([5, 6])], OutputMode.TEXT, chat, ImageParams(32, 32)))
picture = ImageParams(64, 96, num_timesteps=2000, interval=(0.0, 1.0))
loaded.engine.submit(Request("picture", [TextSegment([7, 8])], OutputMode.IMAGE, SamplingParams(), picture))
while not begun or begun[-1].result is not None:
    loaded.engine.step()
{ending}
print("in the middle")
"""


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("ending", ["", "loaded.runner.close()", "loaded.runner.stand_still()", "del loaded, begun[:]"])
def test_it_ends_without_a_word_of_it(ending: str, num_threads: int) -> None:
    script = IN_A_PASS.format(num_threads=num_threads, ending=ending)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "in the middle\n"
    assert done.stderr == ""
    assert done.returncode == 0
