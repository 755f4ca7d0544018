"""What the API process imports of this room brings no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TORCH_FREE = ("errors", "json_object", "sizes", "config", "config_writer", "profile", "tokenizer", "transforms", "flow", "guidance_rules")


@pytest.mark.parametrize("module", TORCH_FREE)
def test_a_module_of_the_front_imports_no_torch(module: str) -> None:
    program = f"import sys, model.{module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True)
