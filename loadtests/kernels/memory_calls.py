"""The launches of the kernels without products, in the sizes a step of BAGEL-7B brings, and what each must move.

Such a kernel is bound by the card's memory: its bound is its bytes at the bandwidth of a large copy. What a launch costs by itself, and
what the first bytes take to arrive, is not in it. How much of a card a launch fills, its compiled code says: programs a multiprocessor
holds at once, by registers and shared memory, against programs there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import triton

from kernels.attention_work import build_work
from kernels.fp8_triton import BLOCK as QUANTIZE_BLOCK
from kernels.guidance_triton import BLOCK_TOKENS
from kernels.heads_triton import HEADS_OF_PROGRAM
from kernels.sampling_triton import BLOCK as DRAW_BLOCK
from kernels.sampling_triton import CHANGE_FIELDS, CHANGES_OF_PROGRAM, CHUNK, FED_BLOCK
from kernels.silu_mul_triton import BLOCK as SILU_BLOCK
from kernels.tiles import Kind, tile_shape
from loadtests.kernels.shapes import BAGEL, SHAPES, Shape, layout_of
from loadtests.kernels.static import FP8_PAGES, PAGE_SIZE, Card
from model.config import BagelConfig

NARROW, WIDE = 2, 4
"""Bytes of bfloat16 and of float32."""
CONFIG = BagelConfig.named("bagel-7b")
HIDDEN, INTERMEDIATE = CONFIG.llm.hidden_size, CONFIG.llm.intermediate_size
NUM_HEADS = BAGEL.num_heads + 2 * BAGEL.num_kv_heads
TOKENS = {"64 decoded tokens": 64, "2 denoise rows of 1,026": 2052}
"""What the kernels that take a token at a time are given."""
WRITTEN = 500
"""Different tokens of an answer that has penalties."""
SECTOR = 32
"""Bytes the card's memory moves at least."""
NUM_PICTURES, NUM_LATENTS, NUM_BRANCHES = 8, 4096, 3


@dataclass(frozen=True, slots=True)
class MemoryCall:
    """One launch.

    Attributes:
        kernel: as `loadtests.kernels.shipped` names it, without the dtype; what: what it is called on.
        programs: of the grid.
        bytes_read, bytes_written: what crosses the card's memory; a row that a program reads twice comes from the cache the second time.
        computed: numbers the programs work on, padding included; needed: without it.
    """

    kernel: str
    what: str
    programs: int
    bytes_read: int
    bytes_written: int
    computed: int
    needed: int


@dataclass(frozen=True, slots=True)
class MemoryPrediction:
    """A launch beside its compiled code.

    Attributes:
        at_once: programs the whole card holds at once; waves: how often it must be filled.
        bytes_per_tile: read by one program; computed_by_needed: 1 without padding.
        predicted_us: all bytes at the card's bandwidth.
    """

    kernel: str
    what: str
    programs: int
    at_once: int
    waves: float
    bytes_per_tile: float
    computed_by_needed: float
    megabytes: float
    predicted_us: float


def predict_memory(call: MemoryCall, occupancy: Mapping[str, int], card: Card) -> MemoryPrediction:
    """Set a launch beside the occupancy of its kernel, by name, on ``card``."""
    at_once = occupancy[call.kernel] * card.multiprocessors
    moved = call.bytes_read + call.bytes_written
    return MemoryPrediction(
        call.kernel,
        call.what,
        call.programs,
        at_once,
        call.programs / at_once,
        call.bytes_read / call.programs,
        call.computed / call.needed,
        moved / 1e6,
        moved / card.bandwidth_tbps / 1e6,
    )


def memory_calls(card: Card) -> Iterator[MemoryCall]:
    """Yield every launch there is a bound for, at least one of each kernel without products."""
    for what, num_tokens in TOKENS.items():
        yield from _norms(what, num_tokens)
        yield from _elementwise(what, num_tokens)
        yield from _heads(what, num_tokens)
    yield from _guidance()
    yield from _draws()
    for shape in SHAPES:
        yield from _merges(shape, card)


def _norms(what: str, num_tokens: int) -> Iterator[MemoryCall]:
    row, padded = HIDDEN * NARROW, triton.next_power_of_2(HIDDEN)
    sizes = (num_tokens * padded, num_tokens * HIDDEN)
    yield MemoryCall("rms_norm", what, num_tokens, num_tokens * row + row, num_tokens * row, *sizes)
    yield MemoryCall("add_rms_norm", what, num_tokens, 2 * num_tokens * row + row, 2 * num_tokens * row, *sizes)
    rounded = num_tokens * (HIDDEN + WIDE)
    yield MemoryCall("rms_norm_to_fp8", what, num_tokens, num_tokens * row + row, rounded, *sizes)
    yield MemoryCall("add_rms_norm_to_fp8", what, num_tokens, 2 * num_tokens * row + row, num_tokens * row + rounded, *sizes)


def _elementwise(what: str, num_tokens: int) -> Iterator[MemoryCall]:
    wide = num_tokens * INTERMEDIATE
    blocks = triton.cdiv(INTERMEDIATE, SILU_BLOCK)
    yield MemoryCall("silu_mul", what, num_tokens * blocks, 2 * wide * NARROW, wide * NARROW, num_tokens * blocks * SILU_BLOCK, wide)
    padded = triton.cdiv(INTERMEDIATE, QUANTIZE_BLOCK) * QUANTIZE_BLOCK
    sizes = (num_tokens * padded, wide)
    yield MemoryCall("quantize_rows", what, num_tokens, wide * NARROW, wide + num_tokens * WIDE, *sizes)
    yield MemoryCall("silu_mul_to_fp8", what, num_tokens, 2 * wide * NARROW, wide + num_tokens * WIDE, *sizes)


def _heads(what: str, num_tokens: int) -> Iterator[MemoryCall]:
    head, cached = BAGEL.head_dim * NARROW, 2 * BAGEL.num_kv_heads
    kept = num_tokens if num_tokens == TOKENS["64 decoded tokens"] else 0  # denoise rows keep nothing
    angles, rotated = 2 * num_tokens * head, NUM_HEADS - BAGEL.num_kv_heads
    groups = triton.cdiv(NUM_HEADS, HEADS_OF_PROGRAM)
    read = num_tokens * NUM_HEADS * head + angles
    sizes = (num_tokens * groups * HEADS_OF_PROGRAM, num_tokens * NUM_HEADS)
    yield MemoryCall("rotate_and_keep", what, num_tokens * groups, read, (num_tokens * rotated + kept * cached) * head, *sizes)
    # Into 8-bit pages half as much is written, and values are rounded where they are.
    written = num_tokens * rotated * head + kept * cached * head // NARROW + kept * BAGEL.num_kv_heads * head
    yield MemoryCall(f"rotate_and_keep{FP8_PAGES}", what, num_tokens * groups, read, written, *sizes)
    heads = num_tokens * rotated
    yield MemoryCall("qk_norm_rope", what, heads, heads * head + angles, heads * head, heads, heads)
    if kept:
        moved = kept * cached * head
        yield MemoryCall("write_pages", what, kept, moved, moved, moved, moved)
        yield MemoryCall(f"write_pages{FP8_PAGES}", what, kept, moved, moved + moved // NARROW, moved, moved)


def _guidance() -> Iterator[MemoryCall]:
    what = f"{NUM_PICTURES} pictures of 1024 x 1024, {NUM_BRANCHES} branches"
    latents = NUM_PICTURES * NUM_LATENTS * CONFIG.latent_dim
    programs = NUM_PICTURES * triton.cdiv(NUM_LATENTS, BLOCK_TOKENS)
    yield MemoryCall("guide", what, programs, latents * NUM_BRANCHES * NARROW, latents * WIDE, latents, latents)
    yield MemoryCall("renorm", what, programs, 2 * latents * WIDE, latents * WIDE, latents, latents)


def _draws() -> Iterator[MemoryCall]:
    """Count what every row must read; a row without top-k and top-p gathers nothing, and few candidates are chosen from."""
    vocab, num_rows = CONFIG.llm.vocab_size, TOKENS["64 decoded tokens"]
    blocks = triton.cdiv(vocab, DRAW_BLOCK)
    what, logits = f"{num_rows} rows of {vocab:,} logits", num_rows * vocab
    sizes = (num_rows * blocks * DRAW_BLOCK, logits)
    changes = num_rows * WRITTEN
    of_answers = f"{num_rows} answers of {WRITTEN} different tokens"
    padded = triton.cdiv(changes, CHANGES_OF_PROGRAM)
    read = changes * (WIDE * CHANGE_FIELDS + SECTOR)  # a logit alone costs the sector it is in
    yield MemoryCall("draw: adjust", of_answers, padded, read, changes * SECTOR, padded * CHANGES_OF_PROGRAM, changes)
    looked_at = num_rows * triton.cdiv(WRITTEN, FED_BLOCK) * FED_BLOCK
    yield MemoryCall("draw: count fed", of_answers, num_rows, changes * WIDE * CHANGE_FIELDS, num_rows * SECTOR, looked_at, changes)
    yield MemoryCall("draw: max", what, num_rows * blocks, logits * NARROW, num_rows * blocks * WIDE, *sizes)
    yield MemoryCall("draw: mass", what, num_rows * blocks, logits * NARROW, num_rows * blocks * 2 * WIDE, *sizes)
    yield MemoryCall("draw: gather", what, num_rows, logits * NARROW, num_rows * CHUNK * WIDE, *sizes)
    yield MemoryCall("draw: choose", what, num_rows, num_rows * CHUNK * (NARROW + WIDE), num_rows * 2 * WIDE, CHUNK, CHUNK)


def _merges(shape: Shape, card: Card) -> Iterator[MemoryCall]:
    layout, heads = layout_of(shape, PAGE_SIZE), shape.heads
    tile = tile_shape(card.generation, Kind.DECODE, heads.head_dim)
    rows = range(layout.num_single_rows)
    if not rows or heads != BAGEL:
        return
    work = build_work(layout, rows, tile_queries=tile.rows // heads.group, tile_keys=tile.keys, split_tiles=tile.split_tiles)
    head_rows = heads.group * heads.num_kv_heads
    read = work.num_slots * head_rows * (heads.head_dim + 1) * WIDE
    written = len(work.merges) * head_rows * heads.head_dim * NARROW
    yield MemoryCall("merge 128", shape.name, len(work.merges) * heads.num_kv_heads, read, written, tile.rows, heads.group)
