"""Compiles a Triton kernel for a GPU that need not be here, and reads what its machine code holds.

The interpreter shows whether a kernel is right; this shows whether it is sound: registers, stack, spills, shared memory, matrix
instructions, the width of its loads. Needs a process in which Triton does not interpret (`TRITON_INTERPRET=0`).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

BINARIES = Path(triton.__file__).parent / "backends/nvidia/bin"
THREADS_OF_WARP = 32

# CUDA C++ Programming Guide, technical specifications by compute capability.
MULTIPROCESSOR_REGISTERS = 65_536
REGISTER_UNIT = 8
MULTIPROCESSOR_WARPS = 64
MULTIPROCESSOR_SHARED = {80: 167_936, 90: 233_472, 100: 233_472}
RESERVED_SHARED = 1024
"""Bytes of shared memory the system takes beside each program's own."""

MATRIX_INSTRUCTIONS = {"HMMA": r"\bHMMA\b", "HGMMA": r"\bHGMMA\b", "UTCHMMA": r"\bUTC\w*MMA\b"}
"""By SASS: a warp's own (every generation), a warpgroup's (Hopper), the tensor memory's (Blackwell)."""


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """A kernel as it is launched in one shipped configuration.

    Attributes:
        name: what the report calls it.
        kernel: the `triton.jit` function.
        types: Triton types of the run-time arguments, such as ``*bf16`` and ``i32``.
        constants: values of the compile-time arguments.
        divisible: integer arguments that are multiples of 16 in practice. Pointers are, but for those whose alignment the kernel ignores.
        matrix: instructions that must be there, one of them; empty for kernels without a product.
        copies_in_bulk: whether bulk copies of tiles must be there.
    """

    name: str
    kernel: triton.JITFunction
    types: Mapping[str, str]
    constants: Mapping[str, object]
    divisible: frozenset[str]
    num_warps: int
    num_stages: int
    matrix: tuple[str, ...] = ()
    copies_in_bulk: bool = False


@dataclass(frozen=True, slots=True)
class Compiled:
    """What one kernel's machine code holds.

    Attributes:
        spills: instructions that touch local memory; stack: its bytes for each thread.
        shared: bytes of shared memory of a program.
        matrix: how many matrix instructions of each kind.
        wide_loads: 16-byte loads from global memory; narrow_loads: all shorter ones; bulk_loads: copies of whole tiles.
    """

    name: str
    capability: int
    triton: str
    num_warps: int
    registers: int
    stack: int
    spills: int
    shared: int
    matrix: dict[str, int]
    wide_loads: int
    narrow_loads: int
    bulk_loads: int

    @property
    def occupancy(self) -> int:
        """How many programs fit a multiprocessor at once, by registers and shared memory."""
        registers = -(-self.registers // REGISTER_UNIT) * REGISTER_UNIT * self.num_warps * THREADS_OF_WARP
        by_shared = MULTIPROCESSOR_SHARED[self.capability] // (self.shared + RESERVED_SHARED)
        return min(MULTIPROCESSOR_REGISTERS // registers, by_shared, MULTIPROCESSOR_WARPS // self.num_warps)


def compile_spec(spec: KernelSpec, capability: int, *, is_brief: bool = False) -> Compiled:
    """Compile for ``sm_{capability}`` and look inside.

    Reading the instructions takes as long as writing them: ``is_brief`` leaves that out where none can be amiss, since there is no stack to
    spill to and no product, and counts none then.
    """
    source = ASTSource(fn=spec.kernel, signature=signature_of(spec), constexprs=constants_of(spec), attrs=attributes_of(spec))
    options = {"num_warps": spec.num_warps, "num_stages": spec.num_stages}
    built = triton.compile(source, target=GPUTarget("cuda", capability, THREADS_OF_WARP), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage = _output("cuobjdump", "--dump-resource-usage", file.name)
        found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
        if found is None:
            raise RuntimeError(f"cuobjdump names no registers for {spec.name}: {usage[-500:]}")
        is_plain = is_brief and found[2] == "0" and not spec.matrix
        sass = "" if is_plain else _output("nvdisasm", "-c", file.name)
    loads = re.findall(r"\b(?:LDG|LDGSTS)\.E([.\w]*)", sass)
    return Compiled(
        name=spec.name,
        capability=capability,
        triton=triton.__version__,
        num_warps=spec.num_warps,
        registers=int(found[1]),
        stack=int(found[2]),
        spills=len(re.findall(r"\b(?:LDL|STL)\b", sass)),
        shared=built.metadata.shared,
        matrix={name: len(re.findall(pattern, sass)) for name, pattern in MATRIX_INSTRUCTIONS.items()},
        wide_loads=sum(".128" in load for load in loads),
        narrow_loads=sum(".128" not in load for load in loads),
        bulk_loads=len(re.findall(r"\bUTMALDG\b", sass)),
    )


def signature_of(spec: KernelSpec) -> dict[str, str]:
    """Return the type of each argument, as Triton is told it."""
    return {name: "constexpr" if name in spec.constants else spec.types[name] for name in spec.kernel.arg_names}


def constants_of(spec: KernelSpec) -> dict[tuple[int], object]:
    """Return the values of the compile-time arguments by place."""
    return {(place,): spec.constants[name] for place, name in enumerate(spec.kernel.arg_names) if name in spec.constants}


def attributes_of(spec: KernelSpec) -> dict[tuple[int], list[list[str | int]]]:
    """Say by place which arguments are known to be multiples of 16: what a launch finds, whatever memory its arguments are in."""
    ignored = spec.kernel.do_not_specialize_on_alignment
    pointers = {name for name, its_type in spec.types.items() if its_type.startswith("*") and name not in ignored}
    known = spec.divisible | pointers
    return {(place,): [["tt.divisibility", 16]] for place, name in enumerate(spec.kernel.arg_names) if name in known}


def _output(program: str, *arguments: str) -> str:
    return subprocess.run([BINARIES / program, *arguments], capture_output=True, text=True, check=True).stdout


def faults(compiled: Compiled, matrix: Iterable[str], *, copies_in_bulk: bool = False) -> list[str]:
    """Say what is wrong with a compiled kernel: spills, a stack, too large for a multiprocessor, none of the ``matrix`` instructions, no
    bulk copies where there must be."""
    found = []
    if compiled.spills or compiled.stack:
        found.append(f"{compiled.spills} spills, {compiled.stack} bytes of stack")
    if compiled.occupancy == 0:
        found.append(f"no multiprocessor holds {compiled.registers} registers a thread and {compiled.shared} bytes of shared memory")
    wanted = list(matrix)
    if wanted and not any(compiled.matrix[name] for name in wanted):
        found.append(f"no {' or '.join(wanted)}, but {compiled.matrix}")
    if copies_in_bulk and not compiled.bulk_loads:
        found.append("no bulk copies of tiles")
    return [f"{compiled.name} for sm_{compiled.capability} under Triton {compiled.triton}: {fault}" for fault in found]
