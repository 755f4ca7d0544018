"""The script for a GPU machine, rehearsed on a CPU in miniature: every part of it that is not CUDA itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def rehearse(out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"ARGS": "--device cpu --tiny", "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
    script = [str(ROOT / "loadtests" / "gpu" / "run.sh"), str(out)]
    return subprocess.run(script, env=env | environment, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_the_script_runs_through_and_leaves_tables_and_numbers(tmp_path: Path) -> None:
    done = rehearse(tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.md", "gpu.tar.gz", "roofline.svg"]
    with tarfile.open(tmp_path / "gpu.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    checks = json.loads((tmp_path / "check.json").read_text())["lines"]
    assert {line["verdict"] for line in checks} == {"ok"}
    assert {"draws without sorting", "gate to 8-bit floats", "replayed decode steps"} <= {line["what"] for line in checks}
    assert {"ViT embeddings of the golden model", "VAE moments of the golden model", "VAE pixels of the golden model"} <= {
        line["what"] for line in checks
    }
    assert "attention over 8-bit pages, decode rows and a denoise row" in {line["what"] for line in checks}
    assert {line["dtype"] for line in checks if "golden" in line["what"]} == {"torch.float32", "torch.bfloat16"}
    attention = json.loads((tmp_path / "attention.json").read_text())["lines"]
    assert all({"us", "timed"} <= line.keys() or "not measured" in line for line in attention)
    assert {line["kernel"] for line in attention} >= {"plait", "plait, 8-bit pages", "sdpa flash", "sdpa cudnn", "varlen attention"}
    flex = [line for line in attention if line["kernel"] == "flex attention"]
    assert len(flex) == 3 and all("us" in line for line in flex), "FlexAttention takes every mask"
    streams = json.loads((tmp_path / "streams.json").read_text())["lines"]
    assert {line["kernel"] for line in streams} >= {"add_rms_norm_to_fp8", "silu_mul_to_fp8", "guide + renorm", "draw", "sorting"}
    assert all({"us", "timed"} <= line.keys() for line in streams)
    assert (tmp_path / "savings.md").read_text().count("text to image") == 3
    golden = json.loads((tmp_path / "golden.json").read_text())["lines"]
    assert {line["verdict"] for line in golden} == {"ok"} and len(golden) == 2 * (1 + 9 * 2), "a text, latents and pictures"
    products = json.loads((tmp_path / "products.json").read_text())["lines"]
    assert {line["matrix"] for line in products if "us" in line} == {"qkv", "o", "gate_up", "down", "lm_head"}
    busy = json.loads((tmp_path / "busy.json").read_text())["lines"]
    timed, watched = busy[:4], busy[4:]
    assert [line["what"] for line in watched] == [f"{line['what']}, watched" for line in timed], "no profiler before the last time"
    assert all("busy" not in line for line in timed) and all(0 < line["busy"] < 1 for line in watched)
    engine = (tmp_path / "engine.md").read_text()
    measured = ("large copy", "decode steps captured", "text to image", "edit", "decode, batch 3", "launch by launch", "beside 2 chats")
    assert all(word in engine for word in measured)
    assert all(word in engine for word in ("target 40 ms", "no target", "over HTTP"))
    candidates = json.loads((tmp_path / "candidates.json").read_text())["lines"]
    assert {"as shipped", "decode, 5 stages", "long in bulk, 128 keys", "as it is written"} <= {line["way"] for line in candidates}
    assert all("of shipped" in line and line["error"] < 1e-5 for line in candidates)
    tables = (tmp_path / "gpu.md").read_text()
    assert tables.startswith("GPU, driver, memory: ") and "replayed decode steps" in tables


@pytest.mark.parametrize(("status", "said"), [(3, "check: status 3, "), (124, "out of time: what it does not list was not measured")])
def test_a_part_that_fails_is_named_and_costs_no_other(tmp_path: Path, status: int, said: str) -> None:
    """Among the tables too, which alone may be looked at: lines that a part had no time for were missing without a word."""
    broken = tmp_path / "python"
    broken.write_text(f'#!/bin/sh\ncase "$*" in *gpu.check*) exit {status};; esac\n')
    broken.chmod(0o755)
    done = rehearse(tmp_path / "out", PYTHON=str(broken))
    assert done.returncode == 1
    assert f"check: status {status}" in done.stdout
    assert said in (tmp_path / "out" / "gpu.md").read_text()
    assert "engine: status 0" in done.stdout
    assert done.stdout.rstrip().endswith("failed: check")


@pytest.mark.parametrize(("arguments", "number"), [("", 1), ("--device cpu --tiny", 0)])
def test_kernels_are_compiled_beside_the_checks_where_there_is_a_gpu(tmp_path: Path, arguments: str, number: int) -> None:
    """One after the other, as they are met, they took a minute of the checks, and more than the last part has."""
    called = tmp_path / "called"
    stand_in = tmp_path / "python"
    stand_in.write_text(f'#!/bin/sh\necho "$*" >> {called}\n')
    stand_in.chmod(0o755)
    assert rehearse(tmp_path / "out", PYTHON=str(stand_in), ARGS=arguments).returncode == 0
    assert called.read_text().count("loadtests.gpu.compiling") == number
