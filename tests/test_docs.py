"""The documentation site: it is built strictly, from the schema as it is, and every page of it is reached."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from server.serving.engine_launch import command_line

ROOT = Path(__file__).parents[1]


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    reference = subprocess.run(command_line(["reference"]), capture_output=True, text=True, timeout=120, check=True)
    (tmp_path / "docs" / "reference" / "api.md").write_text(reference.stdout, encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "build" / "docs" / "reference" / "api.html").read_text(encoding="utf-8")
    assert "/v1/chat/completions" in api and "ChatRequest" in api
    assert "Raises:" not in api
