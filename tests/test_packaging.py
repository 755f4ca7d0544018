"""The set-up: what is pinned, what is shipped, and that a machine without a GPU is never given a CUDA build of PyTorch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [Requirement(text) for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()) for text in group]
PACKAGES = ("kernels", "model", "server")
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]

FAKE_PYTHON = """#!/bin/bash
# Stands in for the Python of a virtual environment: notes its arguments, and answers as the scripts beside it say.
echo "$*" >>"$(dirname "$0")/calls"
case "$*" in
    *'pip '*+cpu*--extra-index-url*) cp "$(dirname "$0")/cpu" "$(dirname "$0")/installed" ;;
    *'pip '*torch==*) source "$(dirname "$0")/pip_torch" ;;
    *'pip '*) ;;
    *'/torch/ '*) source "$(dirname "$0")/index_answers" ;;
    -) cat "$(dirname "$0")/installed" 2>/dev/null ;;
esac
"""


class FakeEnvironment:
    """A virtual environment whose pip installs nothing. ``sources`` is the build that pip's package sources hold: cpu, cuda or none."""

    def __init__(self, root: Path, *, sources: str, index_answers: bool) -> None:
        self.venv = root / "venv"
        self.bin = self.venv / "bin"
        self.bin.mkdir(parents=True)
        version = next(str(pin.specifier).removeprefix("==") for pin in PINS if pin.name == "torch")
        for build in ("cpu", "cuda"):
            self._write(build, f"{version} {build}\n")
        self._write("pip_torch", 'echo "ERROR: no such version" >&2; exit 1' if sources == "none" else self._install(sources))
        self._write("index_answers", f"exit {0 if index_answers else 1}")
        self._write("python", FAKE_PYTHON)
        (self.bin / "python").chmod(0o755)

    def _install(self, build: str) -> str:
        refuse = 'case "$*" in *+cpu*) exit 1;; esac; ' if build == "cuda" else ""
        return f'{refuse}cp "$(dirname "$0")/{build}" "$(dirname "$0")/installed"'

    def _write(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text, encoding="utf-8")

    def install(self, torch: str) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "deploy" / "install.sh"), str(self.venv), "dev"]
        environment = {**os.environ, "TORCH": torch, "TORCH_CPU_INDEX": "http://127.0.0.1:9/cpu"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def torch_installs(self) -> list[str]:
        return re.findall(r"torch==\S+", (self.bin / "calls").read_text(encoding="utf-8"))


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    for requirement in REQUIREMENTS:
        pins = [pin for pin in PINS if pin.name == requirement.name]
        assert pins, f"{requirement.name} is missing in constraints.txt"
        for pin in pins:
            assert requirement.specifier.contains(str(pin.specifier).removeprefix("==")), f"{pin} does not fit {requirement}"


def test_every_pin_is_exact() -> None:
    assert [str(pin) for pin in PINS if not re.fullmatch(r"==[^,*]+", str(pin.specifier))] == []


def test_a_cpu_machine_gets_the_cpu_build_from_the_configured_sources(tmp_path: Path) -> None:
    environment = FakeEnvironment(tmp_path, sources="cpu", index_answers=False)
    assert environment.install("cpu").returncode == 0
    assert [install.endswith("+cpu") for install in environment.torch_installs()] == [True]


def test_a_cpu_machine_falls_back_to_the_index_of_cpu_builds(tmp_path: Path) -> None:
    environment = FakeEnvironment(tmp_path, sources="cuda", index_answers=True)
    assert environment.install("cpu").returncode == 0
    assert [install.endswith("+cpu") for install in environment.torch_installs()] == [True, True]


@pytest.mark.parametrize("sources", ["none", "cuda"])
def test_a_cpu_machine_without_a_cpu_build_is_told_so_and_gets_no_other(sources: str, tmp_path: Path) -> None:
    environment = FakeEnvironment(tmp_path, sources=sources, index_answers=False)
    result = environment.install("cpu")
    assert result.returncode != 0
    assert "PIP_FIND_LINKS" in result.stderr
    assert all(install.endswith("+cpu") for install in environment.torch_installs())


def test_a_gpu_machine_gets_the_cuda_build(tmp_path: Path) -> None:
    environment = FakeEnvironment(tmp_path, sources="cuda", index_answers=False)
    assert environment.install("cuda").returncode == 0
    assert not any("+cpu" in install for install in environment.torch_installs())


def test_a_gpu_machine_that_would_get_a_cpu_build_is_told_so(tmp_path: Path) -> None:
    environment = FakeEnvironment(tmp_path, sources="cpu", index_answers=False)
    result = environment.install("cuda")
    assert result.returncode != 0
    assert "wanted the cuda build" in result.stderr


def test_what_is_installed_already_is_not_fetched_again(tmp_path: Path) -> None:
    environment = FakeEnvironment(tmp_path, sources="cpu", index_answers=False)
    environment.install("cpu")
    environment.install("cpu")
    assert len(environment.torch_installs()) == 1


@pytest.mark.parametrize("target", ["serve", "test"])
def test_make_knows_what_to_do_on_a_fresh_machine(target: str, tmp_path: Path) -> None:
    command = ["make", "--no-print-directory", "--dry-run", target, f"VENV={tmp_path}/venv"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    steps = result.stdout.splitlines()
    assert "deploy/install.sh" in steps[0]
    assert any(f"{tmp_path}/venv/bin/" in step for step in steps[1:])


def test_the_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    """Sources in C, pages and models are found at run time only if they are shipped."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "out", "."]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=True)
    (wheel,) = (tmp_path / "out").iterdir()
    written = {str(path.relative_to(tmp_path)) for package in PACKAGES for path in (tmp_path / package).rglob("*") if path.is_file()}
    assert written - set(zipfile.ZipFile(wheel).namelist()) == set()
