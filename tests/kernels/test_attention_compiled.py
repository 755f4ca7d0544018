"""The attention kernel compiled ahead of time, for a GPU that need not be here: what the interpreter cannot show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HOPPER = "90"
# What one block of an SM 9.0 may allocate (CUDA C++ Programming Guide, table of technical specifications).
MAX_SHARED_BYTES = 232_448
# A warpgroup instruction multiplies 64 rows at least; the decode tile has 16 and uses the warps' own.
MIN_WARPGROUP_ROWS = 64


@pytest.mark.parametrize(("dtype", "head_dim"), [("bf16", "128"), ("fp16", "64")])
def test_every_tile_compiles_for_hopper_without_a_spill_and_with_matrix_instructions(dtype: str, head_dim: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "TRITON_DEFAULT_FP_FUSION": "1", "TRITON_INTERPRET": "0"}
    command = [sys.executable, str(HERE / "compile_attention.py"), HOPPER, dtype, head_dim]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    tiles = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(tiles) == 3
    for tile in tiles:
        assert tile["spills"] == 0, tile
        assert tile["stack"] == 0, tile
        assert tile["shared"] <= MAX_SHARED_BYTES, tile
        assert tile["warpgroup_mma" if tile["rows"] >= MIN_WARPGROUP_ROWS else "warp_mma"] > 0, tile
