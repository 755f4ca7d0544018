"""Builds the C kernels of `kernels/native` with the system's compiler, once for each machine and source, and opens the library.

The result is cached under ``~/.cache/plait`` by the hash of everything it depends on, in a directory that only its owner may enter: what
lies there is executed. The code is compiled for this very CPU, so the CPU's features are part of the key.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

SOURCE_DIRECTORY = Path(__file__).parent / "native"
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fvisibility=hidden", "-fopenmp")
COMPILE_TIMEOUT_S = 120.0


class NativeBuildError(Exception):
    """The C kernels cannot be built or opened here; the message says why."""


def open_native_library(cache_directory: Path | None = None, compilers: Sequence[str] = COMPILERS) -> ctypes.CDLL:
    """Open the library of C kernels, compiling it first if no earlier process has.

    ``cache_directory`` defaults to ``~/.cache/plait``; it is created with mode 0700. The first of ``compilers`` on the PATH is used.
    Raises `NativeBuildError`.
    """
    compiler = next((path for path in map(shutil.which, compilers) if path is not None), None)
    if compiler is None:
        raise NativeBuildError(f"no C compiler found (looked for {', '.join(compilers)})")
    openmp = openmp_of_torch()
    sources = sorted(SOURCE_DIRECTORY.glob("*.c"))
    try:
        directory = private_directory(cache_directory or Path.home() / ".cache" / "plait")
        library = directory / f"kernels-{_key(compiler, openmp)}.so"
        if not library.exists():
            _compile(compiler, sources, openmp, library)
        return ctypes.CDLL(str(library))
    except (OSError, RuntimeError) as error:
        raise NativeBuildError(f"{type(error).__name__}: {error}") from error


def openmp_of_torch() -> Path:
    """The OpenMP library that torch has loaded. Ours must be the same file: two runtimes would fight for the cores."""
    directory = Path(torch.__file__).parent
    found = sorted((*directory.glob("lib/libgomp*.so*"), *directory.parent.glob("torch.libs/libgomp*.so*")))
    if not found:
        raise NativeBuildError(f"torch's OpenMP library (libgomp) is not in {directory / 'lib'}")
    return found[0]


def private_directory(path: Path) -> Path:
    """Create ``path`` for its owner alone and return it. Raises `PermissionError` if somebody else could write there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} is not private to user {os.getuid()}: kernels loaded from it could be anybody's")
    return path


def _key(compiler: str, openmp: Path) -> str:
    """Hash of sources, flags, compiler, torch's OpenMP library and CPU features."""
    digest = hashlib.sha256()
    for file in sorted(SOURCE_DIRECTORY.glob("*.[ch]")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=COMPILE_TIMEOUT_S).stdout
    digest.update(repr((FLAGS, compiler, str(openmp), platform.machine())).encode() + version)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        features = {line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features", "model name"))}
        digest.update("\n".join(sorted(features)).encode())
    return digest.hexdigest()[:24]


def _compile(compiler: str, sources: list[Path], openmp: Path, library: Path) -> None:
    """Compile into a private directory, then rename: of processes that build at the same time each sees a whole library."""
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        objects = [str(Path(scratch) / f"{source.stem}.o") for source in sources]
        built = Path(scratch) / library.name
        for source, target in zip(sources, objects, strict=True):
            _run([compiler, *FLAGS, "-c", str(source), "-o", target])
        # Linked by hand: -fopenmp at this point would add the system's own OpenMP library.
        _run([compiler, "-shared", *objects, str(openmp), "-lm", "-o", str(built)])
        os.replace(built, library)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S)
    if done.returncode != 0:
        raise NativeBuildError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
