"""What is installed on this machine, one line each: so that a failure of what follows is understood. What is missing is named.

    python -m loadtests.gpu.installed

Nothing that may itself be broken is imported: versions are read from the packages' own records. Triton compiles C with ``gcc`` and Python's
headers: up to 3.6 a launcher for each kind of call (``triton/backends/nvidia/driver.py``), later one module for all.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import runpy
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

MISSING = "missing"
PATIENCE_S = 10.0
CUBLAS = ("nvidia-cublas", "nvidia-cublas-cu13", "nvidia-cublas-cu12")


def main() -> int:
    for name, look in FACTS.items():
        print(f"{name}: {look() or MISSING}  ", flush=True)
    return 0


def gpu() -> str:
    """Return the names of the GPUs and their driver's version."""
    return output_of("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")


def output_of(*command: str) -> str:
    """Return what a command says; nothing where there is no such command."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        return f"{MISSING}, {type(error).__name__}"
    return "; ".join(done.stdout.split("\n")).strip("; ")


def version_of(*distributions: str) -> str:
    """Return the version of the first of them that is installed."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def cuda_of_torch() -> str:
    """Return the version of CUDA that PyTorch was built with."""
    spec = importlib.util.find_spec("torch")
    path = Path(spec.origin).parent / "version.py" if spec is not None and spec.origin is not None else None
    return "" if path is None or not path.exists() else str(runpy.run_path(str(path)).get("cuda") or "")


def compiler() -> str:
    version = output_of("gcc", "-dumpfullversion")
    return version and f"{shutil.which('gcc')}, {version}"


def python_header() -> str:
    path = Path(sysconfig.get_paths()["include"], "Python.h")
    return str(path) if path.exists() else ""


FACTS: dict[str, Callable[[], str]] = {
    "GPU, driver, memory": gpu,
    "Python": lambda: sys.version.split()[0],
    "torch": lambda: version_of("torch"),
    "CUDA that torch was built with": cuda_of_torch,
    "cuBLAS": lambda: version_of(*CUBLAS),
    "Triton": lambda: version_of("triton"),
    "gcc": compiler,
    "Python.h": python_header,
}
"""What is looked for, and how it is found."""


if __name__ == "__main__":
    sys.exit(main())
