from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.native_library import (
    PREBUILT_LEVELS,
    NativeBuildError,
    build_beforehand,
    cpu_features,
    open_native_library,
    prebuilt_library,
)

ROOT = Path(__file__).parents[2]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=200)


def test_a_second_opening_uses_the_library_of_the_first(tmp_path: Path) -> None:
    open_native_library(tmp_path / "cache")
    (built,) = (tmp_path / "cache").glob("*.so")
    before = built.stat().st_mtime_ns
    open_native_library(tmp_path / "cache")
    assert [(path, path.stat().st_mtime_ns) for path in (tmp_path / "cache").iterdir()] == [(built, before)]


def test_the_cache_is_private_to_its_owner(tmp_path: Path) -> None:
    open_native_library(tmp_path / "cache")
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700


def test_a_cache_that_others_can_write_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "cache"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(NativeBuildError, match="not private"):
        open_native_library(shared)
    assert list(shared.iterdir()) == []


def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    with pytest.raises(NativeBuildError, match="no C compiler found \\(looked for no-such-compiler\\)"):
        open_native_library(tmp_path, compilers=("no-such-compiler",))


@pytest.fixture(scope="module")
def prebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("image") / "prebuilt"
    build_beforehand(directory)
    return directory


def level_of(library: Path | None) -> str:
    assert library is not None
    return library.stem.removeprefix("kernels-").rpartition("-")[0]


@pytest.mark.parametrize("has_compiler", [False, True])
def test_a_library_built_beforehand_is_used_and_nothing_compiled(prebuilt: Path, tmp_path: Path, has_compiler: bool) -> None:
    """The image for GPUs has a compiler, for Triton, and no place to write to: it compiled the CPU's kernels at every start."""
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__", "prebuilt"))
    shutil.copytree(prebuilt, tmp_path / "kernels" / "prebuilt")
    code = "from kernels.native_library import open_native_library as o; print(o()._name)"
    path = os.environ["PATH"] if has_compiler else str(prebuilt)
    done = run_python(code, PYTHONPATH=str(tmp_path), PYTHONSAFEPATH="1", PATH=path, HOME=str(tmp_path / "home"))
    assert Path(done.stdout.strip()).parent == tmp_path / "kernels" / "prebuilt", done.stderr
    assert not (tmp_path / "home").exists()


def test_the_best_library_that_the_cpu_can_run_is_chosen(prebuilt: Path) -> None:
    assert level_of(prebuilt_library(prebuilt, PREBUILT_LEVELS["x86-64-v4"])) == "x86-64-v4"
    assert level_of(prebuilt_library(prebuilt, PREBUILT_LEVELS["x86-64-v3"] | {"avx512f"})) == "x86-64-v3"
    assert prebuilt_library(prebuilt, frozenset({"sse2"})) is None


def test_a_library_built_from_other_sources_is_not_used(prebuilt: Path, tmp_path: Path) -> None:
    (old,) = prebuilt.glob("*-v3-*.so")
    (tmp_path / f"{old.stem.rpartition('-')[0]}-0123456789abcdef.so").write_bytes(old.read_bytes())
    assert prebuilt_library(tmp_path, PREBUILT_LEVELS["x86-64-v3"]) is None


def test_this_machine_says_what_its_cpu_can_do() -> None:
    assert "sse2" in cpu_features()


def test_processes_that_build_at_once_all_get_a_whole_library(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from kernels.native_library import open_native_library as o; o(Path({str(tmp_path)!r}) / 'cache')"
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}) for _ in range(2)]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_without_a_compiler_the_ops_work_in_torch_and_the_log_says_so(tmp_path: Path) -> None:
    code = (
        "import torch, logging; logging.basicConfig(); torch.set_grad_enabled(False)\n"
        "from kernels.linear import linear; from kernels.native_kernels import native_kernels\n"
        "x, w = torch.randn(2, 8), torch.randn(6, 8)\n"
        "print(native_kernels() is None, torch.allclose(linear(x, w), x @ w.T, atol=1e-5))"
    )
    done = run_python(code, PATH=str(tmp_path), HOME=str(tmp_path))
    assert done.stdout.split() == ["True", "True"], done.stderr
    assert done.stderr.count("native CPU kernels are not available") == 1
