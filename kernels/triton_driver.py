"""Spares the image for GPUs a compiler: the one C file that Triton compiles is compiled beforehand.

Triton brings its kernels to machine code by itself. Through C goes the module with which Python loads and launches them
(``triton/backends/nvidia/driver.py: CudaUtils``, Triton 3.7), compiled at the first launch wherever no earlier process has. ``python -m
kernels.triton_driver`` does it on a machine without a GPU: an empty library stands in for the driver's own, whose functions are looked for
when the module is loaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sysconfig
import tempfile
from pathlib import Path

from kernels.native_library import PREBUILT_DIRECTORY, NativeBuildError, find_compiler, run_compiler

DRIVER_LIBRARY = "libcuda.so.1"
FLAGS = ("-O3", "-shared", "-fPIC", "-Wno-psabi", "-Wl,--no-as-needed")
"""Triton's own (``triton/runtime/build.py``), and that the module must name the driver's library although the stand-in defines nothing."""


LAUNCHER = b"__triton_launcher"
"""What Triton up to 3.6 calls a further module, which it writes and compiles for each kind of call."""


def use_prebuilt(directory: Path = PREBUILT_DIRECTORY, triton: Path | None = None) -> None:
    """Let Triton take its module from ``directory``, if one lies there, instead of compiling it; before its first launch.

    A Triton that compiles launchers too, whatever it finds, is left to do so: it needs a compiler where it runs. ``triton``: the directory
    of its driver, for tests.
    """
    if not any(directory.glob("cuda_utils-*.so")) or LAUNCHER in ((triton or _triton_directory()) / "driver.py").read_bytes():
        return
    from triton import knobs

    def prebuilt(name: str, source: str, scratch: str, library_dirs: list[str], include_dirs: list[str], libraries: list[str]) -> str:
        library = _library_of(Path(source), directory)
        if not library.exists():
            raise NativeBuildError(f"Triton asks for its module {name}, and another one was built beforehand: {directory}")
        return str(library)

    knobs.build.impl = prebuilt


def build_beforehand(directory: Path = PREBUILT_DIRECTORY) -> Path:
    """Compile Triton's module, for machines that are not to compile it. Raises `NativeBuildError`."""
    compiler, source = find_compiler(), _triton_directory() / "driver.c"
    if compiler is None:
        raise NativeBuildError("no C compiler found for Triton's module")
    directory.mkdir(exist_ok=True)
    library = _library_of(source, directory)
    include = ("-I", str(source.parent / "include"), "-I", sysconfig.get_paths()["include"])
    with tempfile.TemporaryDirectory() as scratch:
        stand_in = str(Path(scratch) / DRIVER_LIBRARY)
        run_compiler([compiler, "-shared", "-x", "c", "/dev/null", f"-Wl,-soname,{DRIVER_LIBRARY}", "-o", stand_in])
        run_compiler([compiler, str(source), *FLAGS, *include, f"-L{scratch}", f"-l:{DRIVER_LIBRARY}", "-o", str(library)])
    return library


def _library_of(source: Path, directory: Path) -> Path:
    return directory / f"cuda_utils-{hashlib.sha256(source.read_bytes()).hexdigest()[:24]}.so"


def _triton_directory() -> Path:
    found = importlib.util.find_spec("triton.backends.nvidia")
    if found is None or not found.submodule_search_locations:
        raise NativeBuildError("Triton is not installed")
    return Path(found.submodule_search_locations[0])


if __name__ == "__main__":
    print(build_beforehand())
