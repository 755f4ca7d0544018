"""Every shipped kernel compiled for GPUs that need not be here, under three Tritons: what the interpreter cannot show.

The one that PyTorch 2.11 brings to a GPU machine, and the newest, for every generation; they are installed once, beside everything else,
into directories of their own. The one that is pinned here, which lies between them, for Hopper: the committed report has it for all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import triton

from kernels.tiles import BULK_DECODE, BULK_LONG, Generation, Kind, tile_shape
from loadtests.kernels.compiled import Compiled, faults
from loadtests.kernels.shipped import HEADS, shipped
from loadtests.kernels.static import FP8_PAGES

ROOT = Path(__file__).parents[2]
OTHER_TRITONS = ("3.6.0", "3.9.0")
PINNED_FOR = Generation.HOPPER
CACHE = Path.home() / ".cache" / "plait-tests"
TIMEOUT_S = 280


@dataclass(frozen=True, slots=True)
class Answer:
    """What `loadtests.kernels.ahead_of_time` said."""

    status: int
    kernels: list[Compiled]
    complaints: str


def ahead_of_time(*arguments: str, other: Path | None = None) -> Answer:
    """Compile in a process of its own: whether kernels are interpreted is decided when they are decorated."""
    path = os.pathsep.join([str(ROOT), *([] if other is None else [str(other)])])
    environment = os.environ | {"PYTHONPATH": path, "TRITON_DEFAULT_FP_FUSION": "1", "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "loadtests.kernels.ahead_of_time", "--brief", *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    return Answer(done.returncode, [Compiled(**json.loads(line)) for line in done.stdout.splitlines()], done.stderr)


def installed_triton(version: str) -> Path:
    """Put another Triton into the tests' cache, unless it is there; a broken-off installation is not taken for a whole one."""
    place = CACHE / f"triton-{version}"
    if not place.exists():
        draft = CACHE / f"triton-{version}.{os.getpid()}"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(draft)]
        subprocess.run([*pip, f"triton=={version}"], check=True, timeout=TIMEOUT_S)
        draft.rename(place)
    return place


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    """What the Triton that is pinned here says, then the others."""
    with ThreadPoolExecutor() as pool:
        others = pool.map(lambda version: ahead_of_time(other=installed_triton(version)), OTHER_TRITONS)
        return [ahead_of_time("--generation", str(PINNED_FOR.value)), *others]


@pytest.mark.slow
def test_every_shipped_kernel_compiles_without_a_spill_and_with_its_generations_matrix_instructions(answers: list[Answer]) -> None:
    for answer in answers:
        assert answer.status == 0, answer.complaints[-4000:]


def test_the_oldest_and_the_newest_triton_compiled_every_kernel_for_every_generation(answers: list[Answer]) -> None:
    wanted = [(generation.value, spec.name) for generation in Generation for spec in shipped(generation)]
    of_pinned = [(capability, name) for capability, name in wanted if capability == PINNED_FOR.value]
    found = [[(kernel.capability, kernel.name) for kernel in answer.kernels] for answer in answers]
    assert found == [of_pinned] + [wanted] * len(OTHER_TRITONS)
    pinned, *others = ({kernel.triton for kernel in answer.kernels} for answer in answers)
    assert others == [{version} for version in OTHER_TRITONS]
    assert pinned == {triton.__version__}


def test_as_many_programs_fit_a_multiprocessor_as_the_table_says(answers: list[Answer]) -> None:
    for answer in answers:
        occupancy = {(kernel.capability, kernel.name): kernel.occupancy for kernel in answer.kernels}
        for generation in {Generation(kernel.capability) for kernel in answer.kernels}:
            for kind in Kind:
                for head_dim in HEADS:
                    found = occupancy[generation.value, f"attention {kind.value} {head_dim} bf16"]
                    assert tile_shape(generation, kind, head_dim).programs <= found
                    if (over_fp8 := occupancy.get((generation.value, f"attention {kind.value} {head_dim}{FP8_PAGES} bf16"))) is not None:
                        assert tile_shape(generation, kind, head_dim, has_fp8_pages=True).programs <= over_fp8


def test_as_many_programs_that_load_in_bulk_fit_as_their_tiles_say(answers: list[Answer]) -> None:
    in_bulk = [kernel for answer in answers for kernel in answer.kernels if ", in bulk" in kernel.name]
    assert all((BULK_DECODE if Kind.DECODE.value in kernel.name else BULK_LONG).programs <= kernel.occupancy for kernel in in_bulk)
    assert {kernel.capability for kernel in in_bulk} == {Generation.HOPPER.value, Generation.BLACKWELL.value}


def test_the_check_fails_on_a_tile_that_spills() -> None:
    answer = ahead_of_time("--spill")
    assert answer.status == 1
    assert "spills" in answer.complaints
    assert answer.kernels[0].spills > 0


def compiled(**found: object) -> Compiled:
    sound = {"name": "k", "capability": 90, "triton": "3", "num_warps": 8, "registers": 200, "stack": 0, "spills": 0, "shared": 1000}
    return Compiled(**{**sound, "matrix": {"HMMA": 2, "HGMMA": 0}, "wide_loads": 1, "narrow_loads": 1, "bulk_loads": 0, **found})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "word"), [({"stack": 8}, "stack"), ({"spills": 2}, "spills"), ({"shared": 300_000}, "shared"), ({}, "HGMMA")]
)
def test_each_fault_is_named(found: dict[str, object], word: str) -> None:
    (complaint,) = faults(compiled(**found), ["HGMMA"] if not found else ["HMMA"])
    assert word in complaint


def test_a_kernel_that_is_to_copy_in_bulk_and_does_not_is_named() -> None:
    (complaint,) = faults(compiled(), ["HMMA"], copies_in_bulk=True)
    assert "bulk" in complaint
    assert faults(compiled(bulk_loads=2), ["HMMA"], copies_in_bulk=True) == []


def test_a_sound_kernel_has_no_faults() -> None:
    assert faults(compiled(), ["HMMA"]) == []
