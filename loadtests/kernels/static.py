"""What can be said of the kernels before a GPU has run them: from their machine code and their work lists alone.

The bound of an attention call is predicted from the busiest multiprocessor: the products of the key tiles that the walk over the list
gives it, at the matrix rate of one, or the bytes of all keys, values, queries and results at the card's bandwidth, whichever is longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kernels.attention_work import HostWork, build_work
from kernels.plan import RowLayout
from kernels.tiles import PIECE, Generation, Kind, TileShape, tile_shape
from loadtests.kernels.shapes import Shape, layout_of

PAGE_SIZE = 16
ITEMSIZE = 2
FP8_ITEMSIZE = 1
FP8_PAGES = ", 8-bit pages"
"""What a call over them is marked with."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU's ceilings as measured, see DESIGN: rate of large bf16 products and of large copies."""

    name: str
    generation: Generation
    multiprocessors: int
    matmul_tflops: float
    bandwidth_tbps: float


H200 = Card("H200", Generation.HOPPER, 132, 790.0, 4.3)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One attention call under one kind of tile.

    Attributes:
        items: how many, for each key head; slots: partial results among them.
        tiles_computed: key tiles of all items, partial ones counted by their pieces; tiles_needed: what the visible keys alone would fill.
        masked_share: share of the computed tiles that pay for a mask.
        bytes_per_tile: keys and values of one key tile.
        balance: mean over largest load of a multiprocessor.
        matrix_us, memory_us: the two bounds; predicted_us: the larger, matrix work stretched by padding and balance.
    """

    shape: str
    kind: str
    items: int
    slots: int
    tiles_computed: float
    tiles_needed: float
    masked_share: float
    bytes_per_tile: int
    balance: float
    matrix_us: float
    memory_us: float
    predicted_us: float


def predict(shape: Shape, card: Card, page_itemsize: int = ITEMSIZE) -> Iterator[Prediction]:
    """Yield a prediction for each kind of tile that a call uses, over pages of numbers of so many bytes."""
    layout = layout_of(shape, PAGE_SIZE)
    for kind, rows in ((Kind.DECODE, range(layout.num_single_rows)), (Kind.LONG, range(layout.num_single_rows, layout.num_rows))):
        if rows:
            yield _predict(Call(shape, layout, rows, kind, page_itemsize), card)


@dataclass(frozen=True, slots=True)
class Call:
    """Neighbouring rows of a shape, which one kind of tile computes."""

    shape: Shape
    layout: RowLayout
    rows: range
    kind: Kind
    page_itemsize: int


def _predict(call: Call, card: Card) -> Prediction:
    layout, rows, heads, has_fp8_pages = call.layout, call.rows, call.shape.heads, call.page_itemsize == FP8_ITEMSIZE
    tile = tile_shape(card.generation, call.kind, heads.head_dim, has_fp8_pages=has_fp8_pages)
    queries = tile.rows // heads.group
    work = build_work(layout, rows, tile_queries=queries, tile_keys=tile.keys, split_tiles=tile.split_tiles)
    full, partial = _tiles(work, layout, tile)
    tokens = slice(layout.qo_indptr[rows.start], layout.qo_indptr[rows.stop])
    visible = float(layout.kv_end[tokens].sum())
    matrix_us = 4.0 * visible * heads.num_heads * heads.head_dim / card.matmul_tflops / 1e6
    memory_us = _bytes(call, work) / card.bandwidth_tbps / 1e6
    padded = float((full + partial).sum()) * tile.rows / (visible * heads.group / tile.keys)
    padded *= next_power_of_two(heads.head_dim) / heads.head_dim
    balance = _balance(full + partial, heads.num_kv_heads, card.multiprocessors * tile.programs)
    return Prediction(
        shape=call.shape.name,
        kind=f"{call.kind.value}{FP8_PAGES if has_fp8_pages else ''}",
        items=len(work.items),
        slots=work.num_slots,
        tiles_computed=float((full + partial).sum()),
        tiles_needed=visible / tile.keys / queries,
        masked_share=float(partial.sum() / (full + partial).sum()),
        bytes_per_tile=2 * tile.keys * heads.head_dim * call.page_itemsize,
        balance=balance,
        matrix_us=matrix_us,
        memory_us=memory_us,
        predicted_us=max(matrix_us * padded / balance, memory_us),
    )


def next_power_of_two(width: int) -> int:
    """Return how wide a head of ``width`` is computed."""
    return 1 << (width - 1).bit_length()


Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def _tiles(work: HostWork, layout: RowLayout, tile: TileShape) -> tuple[Floats, Floats]:
    """Count the full and the partial key tiles of each item; partial ones end with the piece that holds the last visible key."""
    first, num, _, past_len, _, begin, full_end, end, _ = (work.items[:, k].astype(np.int64) for k in range(9))
    last_key = np.array([int(layout.kv_end[start : start + count].max()) for start, count in zip(first, num, strict=True)])
    pieces = np.minimum(end * (tile.keys // PIECE), -(-last_key // PIECE)) - full_end * (tile.keys // PIECE)
    straddled = (past_len // tile.keys >= begin) & (past_len // tile.keys < full_end) & (past_len % tile.keys > 0)
    full = (full_end - begin - straddled).astype(np.float64)
    return full, np.maximum(pieces, 0) * (PIECE / tile.keys) + straddled


def _bytes(call: Call, work: HostWork) -> float:
    """Count what must cross the card's memory: every key and value of a row once, queries, results, partial results there and back."""
    layout, rows, heads = call.layout, call.rows, call.shape.heads
    lengths = np.diff(layout.qo_indptr)[rows.start : rows.stop]
    past = float(layout.past_len[rows.start : rows.stop].sum()) * call.page_itemsize
    keys = (past + float(lengths.sum()) * ITEMSIZE) * 2 * heads.num_kv_heads * heads.head_dim
    queries = float(lengths.sum()) * 2 * heads.num_heads * heads.head_dim * ITEMSIZE
    partial_queries = float((work.merges[:, 1].astype(np.int64) * work.merges[:, 3]).sum())
    return keys + queries + 2.0 * partial_queries * heads.num_heads * (heads.head_dim + 1) * 4


def _balance(tiles: Floats, num_kv_heads: int, num_programs: int) -> float:
    """Walk the list as the kernel does, there and back, and compare the mean load of a program with the largest."""
    loads = np.repeat(tiles, num_kv_heads)
    num_programs = min(num_programs, len(loads))
    waves = np.zeros((-(-len(loads) // num_programs), num_programs))
    waves.reshape(-1)[: len(loads)] = loads
    waves[1::2] = waves[1::2, ::-1]
    per_program = waves.sum(axis=0)
    return float(per_program.mean() / per_program.max())
