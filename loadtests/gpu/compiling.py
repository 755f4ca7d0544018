"""Compiles the kernels of a GPU run, on all processors and beside its first part, for whoever launches them later.

    python -m loadtests.gpu.compiling [NAME ...]      those alone; without names, all

A part that meets a kernel for the first time compiles it, one after the other: a minute of the checks, a tenth of the engine's time, and
more than the last part has. Here every work of `works` is done in the host's memory, without a GPU: of each launch only the compilation
takes place, of the very variant that the same launch on a GPU asks for, which Triton then finds in its cache. Launchers, which Triton 3.6
compiles in C for each kind of call, are left to the first launch.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TypedDict

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JitFunctionInfo

from kernels.attention_launch import attend_with_tiles, attend_with_triton, shipped_tiles
from kernels.fp8 import FP8
from kernels.guidance_triton import take_euler_steps_with_triton
from kernels.head_norms import ExpertHeads, HeadNorms
from kernels.heads_triton import rotate_and_keep_with_triton
from kernels.kv_pages import KvPages
from kernels.mix import GuidedStep, Mix, RenormOver
from kernels.sampling import SamplingRow, changes_of, settings_table
from kernels.sampling_triton import adjust_with_triton, draw_with_triton
from kernels.tiles import Generation
from loadtests.gpu.candidates import LARGE_PAGE, STAGES, ways_in_large_pages, ways_to_cut
from loadtests.gpu.check import GOLDEN, PAGE_SIZE, causal_plan
from loadtests.gpu.streams import FULL, row_works
from loadtests.gpu.tensors import random_call
from loadtests.kernels.shapes import BAGEL, VIT, Heads, Row, Segment, Shape, decode, denoise
from model.config import BagelConfig

HOST = torch.device("cpu")
TARGET = GPUTarget("cuda", Generation.HOPPER.value, 32)
FEW_ROWS = 2

Work = Callable[[], object]


class Compilation(TypedDict):
    """Of what Triton is about to compile, what decides how."""

    signature: dict[str, str]
    constants: dict[tuple[int], object]
    configs: list[dict[tuple[int], list[list[str | int]]]]
    num_warps: int
    num_stages: int


class NoDriver:
    """Says what is compiled for."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return TARGET


def compile_and_leave(*, fn: JitFunctionInfo, compile: Compilation, **_: object) -> bool:
    """Compile what a launch asks for; return that there is nothing to launch."""
    source = ASTSource(fn.jit_function, compile["signature"], compile["constants"], compile["configs"][0])
    triton.compile(source, target=TARGET, options={"num_warps": compile["num_warps"], "num_stages": compile["num_stages"]})
    return True


def works() -> dict[str, Work]:
    """Return what is launched by name: first what the first part launches first."""
    return dict((*golden_works(), *attention_works(), *sampling_works(), *layer_works(), *candidate_works()))


def golden_works() -> Iterator[tuple[str, Work]]:
    """Yield attention and draws of the golden model, whose norms take no time."""
    llm = BagelConfig.from_directory(GOLDEN).llm
    heads = Heads(llm.num_heads, llm.num_kv_heads, llm.head_dim)
    for dtype in (torch.float32, torch.bfloat16):
        for name, row in (("long", denoise(20, 30)), ("decode", decode(300))):
            yield f"golden attention, {name}, {dtype}", partial(attend, Shape(name, (row,), heads), dtype)
        yield f"golden draws, {dtype}", partial(draw, llm.vocab_size, dtype)
        yield f"golden Euler steps, {dtype}", partial(take_euler_steps, dtype)


def attention_works() -> Iterator[tuple[str, Work]]:
    """Yield attention as shipped."""
    for name, heads, row in (
        ("long", BAGEL, denoise(20, 30)),
        ("decode", BAGEL, decode(300)),
        ("ViT", VIT, Row(0, ((Segment.VIT, 30),))),
    ):
        shape = Shape(name, (row,), heads)
        for dtype in (torch.bfloat16, torch.float16):
            yield f"attention, {name}, {dtype}", partial(attend, shape, dtype)
        if row.past_len:
            yield f"attention over 8-bit pages, {name}", partial(attend, shape, torch.bfloat16, in_fp8_pages=True)


def attend(shape: Shape, dtype: torch.dtype, *, in_fp8_pages: bool = False) -> None:
    call = random_call(shape, dtype, HOST)
    attend_with_triton(*(call.in_fp8_pages() if in_fp8_pages else call).arguments)


def sampling_works() -> Iterator[tuple[str, Work]]:
    """Yield draws from the full vocabulary, in the formats of the checks and of the engine."""
    for dtype in (torch.float32, torch.bfloat16):
        yield f"draws, {dtype}", partial(draw, FULL.vocab, dtype)


def draw(vocab: int, dtype: torch.dtype) -> None:
    rows = [SamplingRow(temperature=0.8, suppressed=(7,), counts_fed=True)] * FEW_ROWS
    logits = torch.zeros(FEW_ROWS, vocab, dtype=dtype)
    adjust_with_triton(logits, changes_of(rows), torch.zeros(FEW_ROWS, dtype=torch.int64))
    draw_with_triton(logits, settings_table(rows))


def layer_works() -> Iterator[tuple[str, Work]]:
    """Yield what a layer does besides products and attention, and the Euler steps."""
    yield from row_works(FEW_ROWS, FULL, HOST).items()
    for page_dtype in (torch.bfloat16, FP8):
        yield f"rotate and keep, {page_dtype}", partial(rotate_and_keep, page_dtype)


def rotate_and_keep(page_dtype: torch.dtype) -> None:
    dim = BAGEL.head_dim
    qkv, norm, angles = (torch.zeros(size, dtype=torch.bfloat16) for size in ((FEW_ROWS, 36, dim), (dim,), (FEW_ROWS, dim)))
    und, gen = HeadNorms(norm, norm, rotates_in_float32=False), HeadNorms(norm, norm, rotates_in_float32=True)
    k, v = torch.zeros(2, 1, PAGE_SIZE, BAGEL.num_kv_heads, dim).to(page_dtype)
    rotate_and_keep_with_triton(qkv, ExpertHeads(und, gen, 1, 1e-6), (angles, angles), KvPages(k, v), causal_plan(FEW_ROWS, HOST))


def take_euler_steps(dtype: torch.dtype) -> None:
    steps = [GuidedStep(Mix((4.0, -3.0), (2.0, -1.0), RenormOver.IMAGE), 32, 0, 32, 64, dt=0.02)]
    take_euler_steps_with_triton(torch.zeros(32, 64), torch.zeros(96, 64, dtype=dtype), steps)


def candidate_works() -> Iterator[tuple[str, Work]]:
    """Yield the ways to cut attention that are timed beside the shipped one."""
    shipped = shipped_tiles(HOST, BAGEL.head_dim)
    for name, row in (("long", denoise(20, 200)), ("decode", decode(300))):
        call = random_call(Shape(name, (row,), BAGEL), torch.bfloat16, HOST)
        for way, tiles in ways_to_cut(shipped, call, STAGES).items():
            yield f"candidate, {name}, {way}", partial(attend_with_tiles, *call.arguments, tiles)
    call = random_call(Shape("decode", (decode(300),), BAGEL), torch.bfloat16, HOST, page_size=LARGE_PAGE)
    for way, tiles in ways_in_large_pages(shipped).items():
        yield f"candidate, large pages, {way}", partial(attend_with_tiles, *call.arguments, tiles)


def compile_work(name: str) -> str:
    """Do one work; return what is said of it."""
    started = time.perf_counter()
    try:
        works()[name]()
    except Exception as error:  # the part that launches it will say what is wrong with it
        return f"{name}: {type(error).__name__}: {error}".splitlines()[0]
    return f"{name}: {time.perf_counter() - started:.1f} s"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.gpu.compiling")
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args(arguments).names or list(works())
    torch.set_num_threads(1)
    triton.runtime.driver.set_active(NoDriver())
    triton.knobs.runtime.jit_cache_hook = compile_and_leave
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        for said in pool.map(compile_work, names):
            print(said, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
