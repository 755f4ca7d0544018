"""Triton's module is built beforehand without a GPU and taken without a compiler. A library that does nothing is the driver's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from triton import knobs

from kernels.triton_driver import DRIVER_LIBRARY, build_beforehand, use_prebuilt

ROOT = Path(__file__).parents[2]
LOAD = "from triton.backends.nvidia.driver import CudaUtils; CudaUtils().launch; print('loaded')"
USE = "from pathlib import Path; from kernels.triton_driver import use_prebuilt; use_prebuilt(Path({!r})); "

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or not Path(sysconfig.get_paths()["include"], "Python.h").exists(),
    reason="the module is compiled with gcc and Python's headers",
)


@pytest.fixture(scope="module")
def prebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image has instead of a compiler."""
    return build_beforehand(tmp_path_factory.mktemp("image") / "prebuilt").parent


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory, prebuilt: Path) -> Path:
    """A directory with a library of the driver's name, whose functions are those that the module asks for."""
    directory = tmp_path_factory.mktemp("driver")
    (module,) = prebuilt.iterdir()
    symbols = subprocess.run(["nm", "-D", "--undefined-only", module], capture_output=True, text=True, check=True).stdout
    functions = "\n".join(f"int {name}(void) {{ return 0; }}" for name in re.findall(r" U (cu\w+)", symbols))
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{DRIVER_LIBRARY}", "-o", str(directory / DRIVER_LIBRARY)]
    subprocess.run(command, input=functions, text=True, check=True)
    return directory


def run(code: str, driver: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run ``code`` where there is a driver and no compiler."""
    places = {"PATH": str(cache), "LD_LIBRARY_PATH": str(driver), "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    variables = {name: value for name, value in os.environ.items() if name not in ("CC", "TRITON_INTERPRET")} | places
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120, check=False)


def test_triton_takes_the_module_built_beforehand(prebuilt: Path, driver: Path, tmp_path: Path) -> None:
    done = run(USE.format(str(prebuilt)) + LOAD, driver, tmp_path)
    assert done.stdout == "loaded\n", done.stderr


def test_without_it_triton_asks_for_a_compiler(driver: Path, tmp_path: Path) -> None:
    done = run(USE.format(str(tmp_path)) + LOAD, driver, tmp_path)
    assert "Failed to find C compiler" in done.stderr


def test_a_triton_that_compiles_a_launcher_for_each_kind_of_call_is_left_to_do_so(prebuilt: Path, tmp_path: Path) -> None:
    """Triton 3.6 asks for its launchers in the same way as for its module: each was refused as a module of another Triton's."""
    (tmp_path / "driver.py").write_text('mod = compile_module_from_src(src=src, name="__triton_launcher")')
    use_prebuilt(prebuilt, triton=tmp_path)
    assert knobs.build.impl is None


def test_a_module_of_another_triton_is_not_taken(prebuilt: Path, driver: Path, tmp_path: Path) -> None:
    (module,) = prebuilt.iterdir()
    shutil.copy(module, tmp_path / "cuda_utils-0123456789abcdef.so")
    done = run(USE.format(str(tmp_path)) + LOAD, driver, tmp_path)
    assert "another one was built beforehand" in done.stderr
