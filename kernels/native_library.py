"""Builds the C kernels of `kernels/native` with the system's compiler, once for each machine and source, and opens the library.

The result is cached under ``~/.cache/plait`` by the hash of everything it depends on, in a directory that only its owner may enter: what
lies there is executed. The code is compiled for this very CPU, so the CPU's features are part of the key.

Where ``python -m kernels.native_library`` has put libraries beside the sources, as in the container image, they are used and nothing is
compiled: one for each level of CPU features, the best that this CPU has. Their names tell which sources they were built from.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE_DIRECTORY = Path(__file__).parent / "native"
PREBUILT_DIRECTORY = Path(__file__).parent / "prebuilt"
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden", "-pthread")
COMPILE_TIMEOUT_S = 120.0

X86_64_V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})
PREBUILT_LEVELS = {
    "x86-64-v4": X86_64_V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": X86_64_V3,
}
"""What is built beforehand, best first: the compiler's name of a level and the features (as Linux names them) a CPU must have for it."""


class NativeBuildError(Exception):
    """The C kernels cannot be built or opened here; the message says why."""


def open_native_library(cache_directory: Path | None = None, compilers: Sequence[str] = COMPILERS) -> ctypes.CDLL:
    """Open the library of C kernels: one built beforehand, else one of an earlier process, else compile it.

    ``cache_directory`` defaults to ``~/.cache/plait``; it is created with mode 0700. The first of ``compilers`` on the PATH is used.
    Raises `NativeBuildError`.
    """
    try:
        return ctypes.CDLL(str(prebuilt_library() or _compiled_here(cache_directory, compilers)))
    except (OSError, RuntimeError) as error:
        raise NativeBuildError(f"{type(error).__name__}: {error}") from error


def _compiled_here(cache_directory: Path | None, compilers: Sequence[str]) -> Path:
    compiler = find_compiler(compilers)
    if compiler is None:
        raise NativeBuildError(f"no C compiler found (looked for {', '.join(compilers)}), and nothing was built beforehand for this CPU")
    directory = private_directory(cache_directory or Path.home() / ".cache" / "plait")
    library = directory / f"kernels-{_key(compiler)}.so"
    if not library.exists():
        _compile(compiler, "native", library)
    return library


def find_compiler(compilers: Sequence[str] = COMPILERS) -> str | None:
    """Return the path of the first of ``compilers`` that there is."""
    return next((path for path in map(shutil.which, compilers) if path is not None), None)


def prebuilt_library(directory: Path = PREBUILT_DIRECTORY, features: frozenset[str] | None = None) -> Path | None:
    """Return the best library built beforehand for a CPU with ``features``, by default this one; None where there is none."""
    if not directory.exists():
        return None
    features = cpu_features() if features is None else features
    libraries = (_library_of(level, directory) for level, needed in PREBUILT_LEVELS.items() if needed <= features)
    return next((library for library in libraries if library.exists()), None)


def build_beforehand(directory: Path = PREBUILT_DIRECTORY) -> list[Path]:
    """Compile the library for every level of CPU features, for machines that are not to compile it. Raises `NativeBuildError`."""
    compiler = find_compiler()
    if compiler is None or platform.machine() != "x86_64":
        raise NativeBuildError("building beforehand needs a C compiler and an x86-64 machine")
    directory.mkdir(exist_ok=True)
    libraries = [_library_of(level, directory) for level in PREBUILT_LEVELS]
    for level, library in zip(PREBUILT_LEVELS, libraries, strict=True):
        _compile(compiler, level, library)
    return libraries


def cpu_features() -> frozenset[str]:
    """Return the features of this machine's CPU as Linux names them; none where it does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def private_directory(path: Path) -> Path:
    """Create ``path`` for its owner alone and return it. Raises `PermissionError` if somebody else could write there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} is not private to user {os.getuid()}: kernels loaded from it could be anybody's")
    return path


def _library_of(level: str, directory: Path) -> Path:
    return directory / f"kernels-{level}-{_sources().hexdigest()[:24]}.so"


def _sources() -> hashlib._Hash:
    digest = hashlib.sha256()
    for file in sorted(SOURCE_DIRECTORY.glob("*.[ch]")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest


def _key(compiler: str) -> str:
    """Hash of sources, flags, compiler and CPU features."""
    digest = _sources()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=COMPILE_TIMEOUT_S).stdout
    digest.update(repr((FLAGS, compiler, platform.machine())).encode() + version)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        features = {line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features", "model name"))}
        digest.update("\n".join(sorted(features)).encode())
    return digest.hexdigest()[:24]


def _compile(compiler: str, level: str, library: Path) -> None:
    """Compile into a private directory, then rename: of processes that build at the same time each sees a whole library."""
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch, ThreadPoolExecutor(os.cpu_count()) as compilers:
        built = Path(scratch) / library.name

        def compile_one(source: Path) -> str:
            target = str(Path(scratch) / f"{source.stem}.o")
            run_compiler([compiler, *FLAGS, f"-march={level}", "-c", str(source), "-o", target])
            return target

        objects = list(compilers.map(compile_one, sorted(SOURCE_DIRECTORY.glob("*.c"))))
        run_compiler([compiler, *FLAGS, "-shared", *objects, "-lm", "-o", str(built)])
        os.replace(built, library)


def run_compiler(command: list[str]) -> None:
    """Run a compiler. Raises `NativeBuildError` with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S)
    if done.returncode != 0:
        raise NativeBuildError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")


if __name__ == "__main__":
    print(*build_beforehand(), sep="\n")
