"""Random ragged attention calls: rows of segments over scattered pages, in shuffled packed order, with poison where nobody may read."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

import hypothesis.strategies as st
import numpy as np
import torch

from kernels.fp8 import FP8
from kernels.kv_pages import UNSCALED, KvPages, KvScales, rounded_to
from kernels.plan import AttentionPlan, RowLayout, build_attention_plan


class SegmentKind(enum.Enum):
    TEXT = "causal"
    IMAGE = "bidirectional"


@dataclass(frozen=True, slots=True)
class Segment:
    kind: SegmentKind
    length: int


@dataclass(frozen=True, slots=True)
class Row:
    """``past_len`` keys in pages, then ``segments``; their keys and values are written to pages if ``keeps_kv``."""

    past_len: int
    segments: tuple[Segment, ...]
    keeps_kv: bool = True

    @property
    def num_queries(self) -> int:
        return sum(segment.length for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Shape:
    num_kv_heads: int
    group: int
    head_dim: int
    page_size: int


@dataclass(frozen=True, slots=True)
class RaggedCase:
    """One attention call. ``qkv[T, Hq + 2 Hk, d]`` is one matrix, as a fused projection leaves it; queries, keys and values are views."""

    qkv: torch.Tensor
    k_pages: torch.Tensor
    v_pages: torch.Tensor
    plan: AttentionPlan
    scales: KvScales = UNSCALED

    @property
    def q(self) -> torch.Tensor:
        return self.qkv[:, : -2 * self.k_pages.shape[2]]

    @property
    def k(self) -> torch.Tensor:
        return self.qkv[:, -2 * self.k_pages.shape[2] : -self.k_pages.shape[2]]

    @property
    def v(self) -> torch.Tensor:
        return self.qkv[:, -self.k_pages.shape[2] :]

    @property
    def pages(self) -> KvPages:
        return KvPages(self.k_pages, self.v_pages, self.scales)

    @property
    def call(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, KvPages, AttentionPlan]:
        """The arguments of `interleaved_attention`."""
        return self.q, self.k, self.v, self.pages, self.plan

    def to(self, dtype: torch.dtype, device: str = "cpu") -> RaggedCase:
        """Round every tensor to ``dtype`` and put it on ``device``."""
        qkv, k_pages, v_pages = (x.to(device, dtype, copy=True) for x in (self.qkv, self.k_pages, self.v_pages))
        return RaggedCase(qkv, k_pages, v_pages, build_attention_plan(self.plan.layout, torch.device(device)))

    def on(self, device: str) -> RaggedCase:
        """The same tensors on ``device``."""
        there = torch.device(device)
        plan = build_attention_plan(self.plan.layout, there)
        return replace(self, qkv=self.qkv.to(there), k_pages=self.k_pages.to(there), v_pages=self.v_pages.to(there), plan=plan)

    def in_fp8_pages(self, scales: KvScales) -> RaggedCase:
        """The same call over pages of 8-bit floats."""
        k_pages, v_pages = rounded_to(FP8, self.k_pages, scales.k), rounded_to(FP8, self.v_pages, scales.v)
        return replace(self, k_pages=k_pages, v_pages=v_pages, scales=scales)

    def with_any_bounds(self, seed: int) -> RaggedCase:
        """The same call with every query's bound drawn from all that a plan allows, inside the past too."""
        layout = self.plan.layout
        num_keys = layout.past_len + np.diff(layout.qo_indptr)
        kv_end = np.random.default_rng(seed).integers(1, np.repeat(num_keys, np.diff(layout.qo_indptr)) + 1)
        plan = build_attention_plan(replace(layout, kv_end=kv_end.astype(np.int32)), self.qkv.device)
        return replace(self, plan=plan)

    def tokens_of_row(self, row: int) -> torch.Tensor:
        """Packed indices of one row's tokens, int64."""
        layout = self.plan.layout
        return torch.from_numpy(layout.token_index[layout.qo_indptr[row] : layout.qo_indptr[row + 1]]).long()

    def alone(self, row: int) -> RaggedCase:
        """The same tensors under a plan that knows only ``row``."""
        layout = self.plan.layout
        queries = slice(layout.qo_indptr[row], layout.qo_indptr[row + 1])
        pages = slice(layout.kv_indptr[row], layout.kv_indptr[row + 1])
        plan = RowLayout(
            qo_indptr=layout.qo_indptr[row : row + 2] - layout.qo_indptr[row],
            token_index=layout.token_index[queries],
            kv_end=layout.kv_end[queries],
            past_len=layout.past_len[row : row + 1],
            kv_indptr=layout.kv_indptr[row : row + 2] - layout.kv_indptr[row],
            kv_indices=layout.kv_indices[pages],
            write_tokens=layout.write_tokens[:0],
            write_slots=layout.write_slots[:0],
            num_single_rows=int(row < layout.num_single_rows),
            page_size=layout.page_size,
        )
        return replace(self, plan=build_attention_plan(plan, self.qkv.device))


def decode(past_len: int) -> Row:
    return Row(past_len, (Segment(SegmentKind.TEXT, 1),))


def denoise(past_len: int, num_latents: int) -> Row:
    return Row(past_len, (Segment(SegmentKind.IMAGE, num_latents + 2),), keeps_kv=False)


def build_layout(rows: list[Row], page_size: int, random: np.random.Generator, longest_run: int = 1) -> RowLayout:
    """Lay out ``rows`` (single queries first) over randomly chosen pages and a random packed order, in which runs of up to so many
    tokens stay together."""
    rows = sorted(rows, key=lambda row: row.num_queries != 1)
    num_pages = [-(-(row.past_len + row.num_queries * row.keeps_kv) // page_size) for row in rows]
    lengths = [row.num_queries for row in rows]
    qo_indptr = np.cumsum([0, *lengths])
    kv_indptr = np.cumsum([0, *num_pages])
    token_index = _shuffled_runs(qo_indptr[-1], longest_run, random)
    kv_indices = random.permutation(kv_indptr[-1] + 2)[: kv_indptr[-1]]
    kv_end = [end for row in rows for end in _key_ends(row)]
    write_tokens, write_slots = [], []
    for i, row in enumerate(rows):
        for j in range(row.num_queries if row.keeps_kv else 0):
            page, offset = divmod(row.past_len + j, page_size)
            write_tokens.append(token_index[qo_indptr[i] + j])
            write_slots.append(kv_indices[kv_indptr[i] + page] * page_size + offset)
    return RowLayout(
        qo_indptr=qo_indptr.astype(np.int32),
        token_index=token_index.astype(np.int32),
        kv_end=np.array(kv_end, dtype=np.int32),
        past_len=np.array([row.past_len for row in rows], dtype=np.int32),
        kv_indptr=kv_indptr.astype(np.int32),
        kv_indices=kv_indices.astype(np.int32),
        write_tokens=np.array(write_tokens, dtype=np.int64),
        write_slots=np.array(write_slots, dtype=np.int64),
        num_single_rows=lengths.count(1),
        page_size=page_size,
    )


def _shuffled_runs(num_tokens: int, longest_run: int, random: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Cut tokens into runs of random lengths, shuffle the runs, and return each token's place."""
    if num_tokens == 0:
        return np.empty(0, dtype=np.int64)
    lengths: list[int] = []
    while (left := num_tokens - sum(lengths)) > 0:
        lengths.append(min(left, int(random.integers(1, longest_run + 1)) if longest_run > 1 else 1))
    order = random.permutation(len(lengths))
    starts = np.empty(len(lengths), dtype=np.int64)
    starts[order] = np.cumsum([0, *np.array(lengths)[order][:-1]])
    return np.concatenate([np.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)])


def _key_ends(row: Row) -> list[int]:
    ends: list[int] = []
    start = row.past_len
    for segment in row.segments:
        stop = start + segment.length
        ends += range(start + 1, stop + 1) if segment.kind is SegmentKind.TEXT else [stop] * segment.length
        start = stop
    return ends


def build_case(rows: list[Row], shape: Shape, seed: int, longest_run: int = 1) -> RaggedCase:
    """Draw the tensors. Slots that hold nothing are NaN: a kernel that reads one says so in its output."""
    layout = build_layout(rows, shape.page_size, np.random.default_rng(seed), longest_run)
    generator = torch.Generator().manual_seed(seed)
    kv_width = (shape.num_kv_heads, shape.head_dim)
    pool = (len(layout.kv_indices) + 2, shape.page_size, *kv_width)
    pages = torch.full((2, *pool), float("nan"), dtype=torch.float64)
    for row in range(layout.num_rows):
        ids = layout.kv_indices[layout.kv_indptr[row] : layout.kv_indptr[row + 1]]
        slots = (ids[:, None] * shape.page_size + np.arange(shape.page_size)).reshape(-1)[: layout.past_len[row]]
        pages.flatten(1, 2)[:, torch.from_numpy(slots).long()] = torch.randn(
            2, len(slots), *kv_width, dtype=torch.float64, generator=generator
        )
    num_tokens, num_heads = layout.num_tokens, shape.num_kv_heads * shape.group
    qkv = torch.randn(num_tokens, num_heads + 2 * shape.num_kv_heads, shape.head_dim, dtype=torch.float64, generator=generator)
    return RaggedCase(qkv, pages[0], pages[1], build_attention_plan(layout, torch.device("cpu")))


def rows_of(page_size: int, max_segment: int) -> st.SearchStrategy[Row]:
    """Rows whose past ends on, just before, just after or far from a page's edge; the empty context among them."""
    edges = st.sampled_from([0, 1, page_size - 1, page_size, page_size + 1, 3 * page_size])
    past_len = st.one_of(edges, st.integers(0, 5 * page_size))
    segment = st.builds(Segment, st.sampled_from(SegmentKind), st.integers(1, max_segment))
    chunk = st.builds(Row, past_len, st.lists(segment, min_size=1, max_size=4).map(tuple))
    return st.one_of(past_len.map(decode), st.builds(denoise, past_len, st.integers(1, max_segment)), chunk)


@st.composite
def ragged_cases(draw: st.DrawFn, max_rows: int = 5, max_segment: int = 40) -> RaggedCase:
    """Any mix of decode, prefill and denoise rows, groups of 1, 4 and 7, pages of sizes that divide nothing, runs of any length."""
    shape = Shape(
        num_kv_heads=draw(st.sampled_from([1, 2])),
        group=draw(st.sampled_from([1, 4, 7])),
        head_dim=draw(st.sampled_from([16, 64, 72])),
        page_size=draw(st.sampled_from([1, 5, 16])),
    )
    rows = draw(st.lists(rows_of(shape.page_size, max_segment), min_size=1, max_size=max_rows))
    return build_case(rows, shape, draw(st.integers(0, 2**31)), draw(st.sampled_from([1, 5, 1000])))
