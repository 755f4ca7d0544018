"""The machine: processors, memory, limits of the operating system, the device the model would run on, and its kernels."""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from server.cli.doctor.finding import Finding, fault, fine, warning
from server.engine.memory_plan import gigabytes
from server.engine.options import LEAST_FP8_CAPABILITY

MIN_OPEN_FILES = 1024
"""Each connection is a file; a limit below this is met by a few hundred clients."""

BFLOAT16_CAPABILITY = (8, 0)
"""The first NVIDIA generation (Ampere) that computes in bfloat16."""

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""How processors that compute in bfloat16 say so in /proc/cpuinfo."""

CGROUP_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What the model would run on. ``capability`` is CUDA's, None on a CPU; ``computes_bfloat16`` is about hardware, not speed."""

    name: str
    is_gpu: bool
    total_bytes: int
    free_bytes: int
    computes_bfloat16: bool
    capability: tuple[int, int] | None = None


def find_accelerator(device: str) -> Accelerator:
    """Return the device that ``--device`` names. Imports torch.

    Raises:
        NoSuchDevice: a GPU is asked for where none can be used.
    """
    import torch

    from server.engine.devices import chosen_device

    chosen = chosen_device(device)
    if chosen.type == "cpu":
        total, free = host_memory()
        return Accelerator(platform.machine(), False, total, free, bool(_cpu_flags() & BFLOAT16_FLAGS))
    index = chosen.index or 0
    free, total = torch.cuda.mem_get_info(index)
    capability = torch.cuda.get_device_capability(index)
    return Accelerator(torch.cuda.get_device_name(index), True, total, free, capability >= BFLOAT16_CAPABILITY, capability)


def host_memory() -> tuple[int, int]:
    """Return how many bytes of memory there are and how many can be had, within the limits of a container."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    total, free = (1024 * int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    for limit_file, usage_file in CGROUP_LIMITS:
        limit = limit_file.read_text(encoding="ascii").strip() if limit_file.is_file() else ""
        if limit.isdecimal() and int(limit) < total:
            total = int(limit)
            free = min(free, total - int(usage_file.read_text(encoding="ascii")))
    return total, free


def check_system() -> Iterator[Finding]:
    """Look at what every server needs of its operating system."""
    total, free = host_memory()
    cores = len(os.sched_getaffinity(0))
    yield fine("machine", f"{platform.system()} {platform.machine()}, {cores} cores, {gigabytes(free)} of {gigabytes(total)} free")
    yield fine("python", f"Python {platform.python_version()}")
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if open_files < MIN_OPEN_FILES:
        yield warning(
            "open files", f"at most {open_files} files may be open, one for each connection", "ulimit -n 65536 before plait serve"
        )


def check_device(accelerator: Accelerator) -> Iterator[Finding]:
    """Look at the device and at the kernels that would run on it."""
    kind = "GPU" if accelerator.is_gpu else "CPU"
    yield fine("device", f"{kind} {accelerator.name}, {gigabytes(accelerator.free_bytes)} of {gigabytes(accelerator.total_bytes)} free")
    yield check_extra(accelerator)
    if not accelerator.is_gpu:
        yield _check_native_kernels()


def check_dtype(dtype: str, accelerator: Accelerator) -> Finding:
    """Judge the number format for a device; "auto" is what `plait serve` would take."""
    chosen = chosen_dtype(dtype, accelerator)
    if chosen == "bfloat16" and not accelerator.computes_bfloat16:
        if accelerator.capability is not None:
            major, minor = accelerator.capability
            says = f"{accelerator.name} (compute capability {major}.{minor}) cannot compute in bfloat16, which needs 8.0"
            return fault("dtype", says, "--dtype float32, or a card of the Ampere generation or later")
        return warning("dtype", "this CPU has no bfloat16 instructions: they are emulated, slowly", "--dtype float32")
    return fine("dtype", f"{chosen}{' (chosen for this device)' if dtype == 'auto' else ''}")


def check_fp8(options: Iterable[str], accelerator: Accelerator) -> Iterator[Finding]:
    """Say which of the options that want 8-bit floats ask for what a device has not."""
    for option in options:
        if accelerator.capability is not None and accelerator.capability < LEAST_FP8_CAPABILITY:
            major, minor = accelerator.capability
            says = f"{option} fp8: {accelerator.name} (compute capability {major}.{minor}) has no 8-bit floats, which need 8.9"
            yield fault("fp8", says, f"leave {option} out, or take a card of the Ada generation or later")


def chosen_dtype(dtype: str, accelerator: Accelerator) -> str:
    """Return the number format that ``--dtype`` stands for on a device."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if accelerator.is_gpu else "float32"


def check_extra(accelerator: Accelerator) -> Finding:
    """See that the optional packages which this device needs are there."""
    if accelerator.is_gpu and not _is_installed("triton"):
        return fault("extras", "the optional extra 'cuda' is missing: without Triton there are no GPU kernels", "pip install 'plait[cuda]'")
    return fine("extras", "every optional package that this device needs is installed")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _check_native_kernels() -> Finding:
    from kernels.native_library import NativeBuildError, open_native_library

    try:
        open_native_library()
    except NativeBuildError as error:
        return warning("attention", f"the C kernels cannot be built, PyTorch's will be used: {error}", "install gcc and libc6-dev")
    return fine("attention", "native C kernels, built for this CPU")


def _cpu_flags() -> frozenset[str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    return frozenset(flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split())
