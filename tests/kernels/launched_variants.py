"""Which variants of the kernels that read a plan Triton is asked for on a GPU, beside those that are compiled and checked ahead of time.

    TRITON_INTERPRET=0 python -m tests.kernels.launched_variants

No GPU takes part: the driver is a stand-in, and Triton's own hook says what a launch would compile, instead of compiling it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch
import triton
from triton.runtime.jit import JitFunctionInfo

from kernels.attention_launch import Tiles, attend_with_tiles, attend_with_triton
from kernels.pages_triton import write_pages_with_triton
from kernels.plan import AttentionPlan
from kernels.tiles import BULK_DECODE, BULK_LONG, DECODE, Generation, Kind, tile_shape
from loadtests.gpu.compiling import Compilation, NoDriver
from loadtests.kernels.compiled import KernelSpec, attributes_of, constants_of, signature_of
from loadtests.kernels.shipped import LARGE_PAGES, attention_spec, bulk_specs, merge_spec, token_specs
from tests.kernels.ragged import RaggedCase, Row, Segment, SegmentKind, Shape, build_case, decode

BAGEL = Shape(num_kv_heads=4, group=7, head_dim=128, page_size=16)
ALIGNMENT = 16
PROMPT = Row(20, (Segment(SegmentKind.TEXT, 9),))


@dataclass(frozen=True, slots=True)
class Variant:
    """What makes Triton compile a kernel once more: types, constants, what is a multiple of 16, warps and stages, as text."""

    kernel: str
    found: str


class Recorder:
    """Remembers every variant that a launch asks for; nothing is compiled and nothing runs."""

    def __init__(self) -> None:
        self.variants: set[Variant] = set()

    def __call__(self, *, fn: JitFunctionInfo, compile: Compilation, **_: object) -> bool:
        attributes = {place: known for place, known in compile["configs"][0].items() if known}
        found = (compile["signature"], compile["constants"], attributes, compile["num_warps"], compile["num_stages"])
        self.variants.add(Variant(fn.name, str(found)))
        return True


def checked(spec: KernelSpec) -> Variant:
    """Return the variant that is compiled ahead of time."""
    found = (signature_of(spec), constants_of(spec), attributes_of(spec), spec.num_warps, spec.num_stages)
    return Variant(spec.kernel.fn.__name__, str(found))


def checked_variants() -> Iterator[Variant]:
    for kind in Kind:
        yield checked(attention_spec(Generation.HOPPER, tile_shape(Generation.HOPPER, kind, BAGEL.head_dim), kind, BAGEL.head_dim, "bf16"))
    yield from (checked(spec) for spec in bulk_specs(Generation.HOPPER))
    yield checked(merge_spec(DECODE, BAGEL.head_dim))
    yield from (checked(spec) for spec in token_specs() if spec.name == "write_pages bf16")


def batches() -> Iterator[RaggedCase]:
    """Yield steps of some rows of words, some of whose contexts are split, alone and beside a prompt."""
    for num_rows in range(1, 6):
        rows = [decode(2000 + 70 * k) for k in range(num_rows)]
        yield build_case(rows, BAGEL, seed=num_rows).to(torch.bfloat16)
        yield build_case([*rows, PROMPT], BAGEL, seed=num_rows).to(torch.bfloat16)


def moved(array: torch.Tensor, start: int) -> torch.Tensor:
    """Put numbers so many of them behind a multiple of 16 bytes."""
    memory = torch.empty(len(array) + 2 * ALIGNMENT, dtype=array.dtype)
    first = -memory.data_ptr() % ALIGNMENT // array.itemsize + start
    there = memory[first : first + len(array)]
    return there.copy_(array)


def plans(plan: AttentionPlan) -> Iterator[AttentionPlan]:
    """Yield a plan with its arrays wherever they may come to lie."""
    for index, ends, pages in product(range(4), repeat=3):
        yield replace(
            plan,
            token_index=moved(plan.token_index, index),
            kv_end=moved(plan.kv_end, ends),
            kv_indices=moved(plan.kv_indices, pages),
            write_tokens=moved(plan.write_tokens, index % 2),
            write_slots=moved(plan.write_slots, ends % 2),
            work={},
        )


def launched_variants() -> set[Variant]:
    recorder = Recorder()
    triton.runtime.driver.set_active(NoDriver())
    triton.knobs.runtime.jit_cache_hook = recorder
    for page_size in (BAGEL.page_size, LARGE_PAGES.size):
        case = build_case([decode(2000), PROMPT], replace(BAGEL, page_size=page_size), seed=0).to(torch.bfloat16)
        attend_with_tiles(*case.call, Tiles(BULK_DECODE, BULK_LONG))
    for case in batches():
        for plan in plans(case.plan):
            attend_with_triton(case.q, case.k, case.v, case.pages, plan)
            write_pages_with_triton(case.k, case.v, case.pages, plan)
    return recorder.variants


def main() -> None:
    for name, variants in (("launched", launched_variants()), ("checked", set(checked_variants()))):
        print(json.dumps([name, sorted((variant.kernel, variant.found) for variant in variants)]))


if __name__ == "__main__":
    main()
