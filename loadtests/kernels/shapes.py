"""The attention calls that are measured: what a step of BAGEL-7B brings, as a `RowLayout` each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from kernels.plan import RowLayout


class Segment(Enum):
    """What a run of tokens is: who sees whom, and which expert it belongs to."""

    TEXT = "text"
    VIT = "vit"
    LATENTS = "latents"


@dataclass(frozen=True, slots=True)
class Row:
    """``past_len`` keys in pages, then segments of so many tokens, the markers of a picture counted in."""

    past_len: int
    segments: tuple[tuple[Segment, int], ...]

    @property
    def num_tokens(self) -> int:
        return sum(length for _, length in self.segments)


@dataclass(frozen=True, slots=True)
class Heads:
    """Query heads, key heads and their width."""

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        return self.num_heads // self.num_kv_heads


@dataclass(frozen=True, slots=True)
class Shape:
    """One attention call: its rows, those of one query first, and its heads."""

    name: str
    rows: tuple[Row, ...]
    heads: Heads

    @property
    def num_tokens(self) -> int:
        return sum(row.num_tokens for row in self.rows)


BAGEL = Heads(28, 4, 128)
VIT = Heads(16, 16, 72)


def decode(past_len: int) -> Row:
    return Row(past_len, ((Segment.TEXT, 1),))


def denoise(past_len: int, num_latents: int) -> Row:
    return Row(past_len, ((Segment.LATENTS, num_latents + 2),))


def _prompt() -> Row:
    """Text and four pictures, 6,000 tokens."""
    picture = ((Segment.TEXT, 474), (Segment.VIT, 1026))
    return Row(0, picture * 4)


SHAPES = (
    Shape("8 denoise rows of 1,026 over 300", (denoise(300, 1024),) * 8, BAGEL),
    Shape("2 denoise rows of 4,098 over 2,000", (denoise(2000, 4096),) * 2, BAGEL),
    Shape("a prompt of 6,000, text and 4 pictures", (_prompt(),), BAGEL),
    Shape("64 decode rows over 2,000", (decode(2000),) * 64, BAGEL),
    Shape("1 decode row over 2,000", (decode(2000),), BAGEL),
    Shape("32 decode rows over 2,000 and 3 denoise rows", (decode(2000),) * 32 + (denoise(300, 1024),) * 3, BAGEL),
    Shape("ViT, 4 pictures of 1,024", (Row(0, ((Segment.VIT, 1024),)),) * 4, VIT),
)

TINY_SHAPES = (
    Shape("denoise rows", (denoise(20, 30),) * 2, Heads(14, 2, 64)),
    Shape("prompt", (Row(0, ((Segment.TEXT, 20), (Segment.VIT, 18), (Segment.TEXT, 9))),), Heads(14, 2, 64)),
    Shape("decode rows and a denoise row", (decode(70), decode(300), denoise(5, 20)), Heads(14, 2, 64)),
)


def layout_of(shape: Shape, page_size: int, seed: int = 0) -> RowLayout:
    """Lay the rows out over scattered pages, tokens in expert order, as the packer does; denoise rows keep nothing."""
    lengths = np.array([row.num_tokens for row in shape.rows])
    past_len = np.array([row.past_len for row in shape.rows])
    num_pages = -(-past_len // page_size)
    is_gen = np.concatenate([_is_gen(row) for row in shape.rows])
    num_und = int((~is_gen).sum())
    kv_indptr = np.concatenate([[0], np.cumsum(num_pages)])
    none = np.empty(0, dtype=np.int64)
    return RowLayout(
        qo_indptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        token_index=np.where(is_gen, num_und + np.cumsum(is_gen) - 1, np.cumsum(~is_gen) - 1).astype(np.int32),
        kv_end=np.concatenate([_bounds(row) for row in shape.rows]).astype(np.int32),
        past_len=past_len.astype(np.int32),
        kv_indptr=kv_indptr.astype(np.int32),
        kv_indices=np.random.default_rng(seed).permutation(kv_indptr[-1]).astype(np.int32),
        write_tokens=none,
        write_slots=none,
        num_single_rows=int((lengths == 1).sum()),
        page_size=page_size,
    )


def _is_gen(row: Row) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    columns = []
    for kind, length in row.segments:
        column = np.full(length, kind is Segment.LATENTS)
        column[[0, -1]] = False
        columns.append(column)
    return np.concatenate(columns)


def _bounds(row: Row) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    columns, start = [], row.past_len
    for kind, length in row.segments:
        end = start + length
        columns.append(np.arange(start + 1, end + 1) if kind is Segment.TEXT else np.full(length, end))
        start = end
    return np.concatenate(columns)
