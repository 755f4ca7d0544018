"""Packs a `Batch` into tensors: the one place where the engine's rows become a ragged batch.

Rows are laid out in *row order*, rows of one query first, as `kernels.plan` asks; tokens are then numbered in *packed order*, those of
the understanding expert before those of the generation expert.

    row order     decode | 1-token prefill | denoise: BOI latents EOI | prefill: text, BOI patches EOI, BOI latents EOI …
    packed order  every text token, marker and ViT token | every VAE latent
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain

import numpy as np
import numpy.typing as npt
import torch

from kernels.plan import RowLayout
from kernels.upload import upload_tensor
from server.engine.batch import Batch, DecodeRow, DenoiseRow, Draw, Piece, PrefillRow, TextPiece
from server.engine.context import page_table
from server.engine.pages import Pages
from server.engine.segments import NUM_MARKERS, VaeImage, VitImage

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LatentRun:
    """A run of generation-expert tokens: the latents of a denoise row, or of a clean picture (timestep 0)."""

    source: DenoiseRow | VaeImage
    start: int
    num_tokens: int
    timestep: float
    grid_height: int
    grid_width: int


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One step as tensors and their bookkeeping.

    Attributes:
        layout: rows and masks for attention.
        positions: int64 ``[num_tokens]`` RoPE positions, packed order.
        und_token_ids: int64 ``[num_und]``; zero where a ViT embedding goes, or a token that the step under way is only just drawing.
        num_und: how many tokens the understanding expert has.
        vit_index: int64 ``[num_patches]`` packed indices of the ViT embeddings of ``vit_images``, in order.
        vit_images: pictures to read through the ViT.
        latent_runs: the generation expert's tokens, in packed order, from ``start`` 0 on.
        draw_index: int64 ``[num_draws]`` packed indices of the rows a token is drawn from.
        draws: how, and for which sequence.
    """

    layout: RowLayout
    positions: torch.Tensor
    und_token_ids: torch.Tensor
    num_und: int
    vit_index: torch.Tensor
    vit_images: list[VitImage]
    latent_runs: list[LatentRun]
    draw_index: torch.Tensor
    draws: list[tuple[int, Draw]]

    @property
    def num_gen(self) -> int:
        return len(self.positions) - self.num_und


@dataclass(frozen=True, slots=True)
class Markers:
    """Token ids of begin-of-image and end-of-image, and pixels per latent token side."""

    boi_id: int
    eoi_id: int
    latent_stride: int


@dataclass(slots=True)
class _Columns:
    """Token columns in row order, as lists of arrays, and row columns as plain lists."""

    token_ids: list[Ints] = field(default_factory=list)
    positions: list[Ints] = field(default_factory=list)
    kv_end: list[Ints] = field(default_factory=list)
    is_gen: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    is_vit: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    num_queries: list[int] = field(default_factory=list)
    past_len: list[int] = field(default_factory=list)
    keeps: list[bool] = field(default_factory=list)
    pages: list[Pages] = field(default_factory=list)
    vit_images: list[VitImage] = field(default_factory=list)
    latent_runs: list[LatentRun] = field(default_factory=list)
    num_gen: int = 0
    draws: list[tuple[int, Draw]] = field(default_factory=list)
    draw_rows: list[int] = field(default_factory=list)


def pack(batch: Batch, page_size: int, markers: Markers, device: torch.device) -> PackedBatch:
    """Lay out the rows of ``batch`` and put the result on ``device``."""
    if not batch.denoises and not batch.prefills:
        return _pack_decodes(batch.decodes, page_size, device)
    columns = _Columns()
    if batch.decodes:
        _add_decodes(columns, batch.decodes)
    singles = [row for row in batch.prefills if _num_queries(row) == 1]
    for row in singles:
        _add_prefill(columns, row, markers)
    num_single_rows = len(batch.decodes) + len(singles)
    for step in batch.denoises:
        grid = (step.params.height // markers.latent_stride, step.params.width // markers.latent_stride)
        for denoise in step.rows:
            _add_denoise(columns, denoise, grid, step.eulers[0].timestep, markers)
    for row in batch.prefills:
        if _num_queries(row) > 1:
            _add_prefill(columns, row, markers)
    return _assemble(columns, num_single_rows, page_size, device)


def _pack_decodes(rows: list[DecodeRow], page_size: int, device: torch.device) -> PackedBatch:
    """Lay out a step of decode rows alone, the commonest and the shortest: every column at once, in one array for each dtype."""
    num = len(rows)
    past = [row.kv_len for row in rows]
    bounds, kv_indices = _past_pages([row.pages for row in rows], past, page_size)
    places = list(range(num))
    slots = [row.pages[row.kv_len // page_size] * page_size + row.kv_len % page_size for row in rows]
    columns = [[*places, num], places, [length + 1 for length in past], past, bounds]
    joined = np.array(list(chain.from_iterable(columns)), dtype=np.int32)
    ends = list(accumulate(len(column) for column in columns))
    parts = [joined[end - len(column) : end] for column, end in zip(columns, ends, strict=True)]
    qo_indptr, token_index, kv_end, past_len, kv_indptr = parts
    wide = np.array([[row.rope_pos for row in rows], [row.token_id or 0 for row in rows], places, slots], dtype=np.int64)
    layout = RowLayout(qo_indptr, token_index, kv_end, past_len, kv_indptr, kv_indices, wide[2], wide[3], num, page_size)
    positions, token_ids, draw_index, _ = put(wide, device).unbind(0)
    draws = [(row.sequence_id, row.draw) for row in rows]
    return PackedBatch(layout, positions, token_ids, num, draw_index[:0], [], [], draw_index, draws)


def _num_queries(row: PrefillRow) -> int:
    return sum(piece.num_rows for piece in row.pieces)


def _add_decodes(columns: _Columns, rows: list[DecodeRow]) -> None:
    num = len(rows)
    past = [row.kv_len for row in rows]
    columns.token_ids.append(np.array([row.token_id or 0 for row in rows], dtype=np.int64))
    columns.positions.append(np.array([row.rope_pos for row in rows], dtype=np.int64))
    columns.kv_end.append(np.array(past, dtype=np.int64) + 1)
    columns.is_gen.append(np.zeros(num, dtype=np.bool_))
    columns.is_vit.append(np.zeros(num, dtype=np.bool_))
    columns.num_queries.extend([1] * num)
    columns.past_len.extend(past)
    columns.keeps.extend([True] * num)
    columns.pages.extend(row.pages for row in rows)
    columns.draws.extend((row.sequence_id, row.draw) for row in rows)
    columns.draw_rows.extend(range(num))


def _add_row(columns: _Columns, num_queries: int, kv_len: int, pages: Pages, *, keeps: bool) -> None:
    columns.num_queries.append(num_queries)
    columns.past_len.append(kv_len)
    columns.keeps.append(keeps)
    columns.pages.append(pages)


def _add_denoise(columns: _Columns, row: DenoiseRow, grid: tuple[int, int], timestep: float, markers: Markers) -> None:
    num_latents = grid[0] * grid[1]
    _add_image_tokens(columns, num_latents, row.rope_pos, row.kv_len, markers, is_vit=False)
    columns.latent_runs.append(LatentRun(row, columns.num_gen, num_latents, timestep, *grid))
    columns.num_gen += num_latents
    _add_row(columns, num_latents + NUM_MARKERS, row.kv_len, row.pages, keeps=False)


def _add_prefill(columns: _Columns, row: PrefillRow, markers: Markers) -> None:
    kv_len, position = row.kv_len, row.rope_pos
    for piece in row.pieces:
        _add_piece(columns, piece, position, kv_len, markers)
        kv_len += piece.num_rows
        position += piece.num_positions
    if row.draw is not None:
        columns.draws.append((row.sequence_id, row.draw))
        columns.draw_rows.append(len(columns.num_queries))
    _add_row(columns, kv_len - row.kv_len, row.kv_len, row.pages, keeps=True)


def _add_piece(columns: _Columns, piece: Piece, position: int, kv_len: int, markers: Markers) -> None:
    if isinstance(piece, TextPiece):
        num = len(piece.token_ids)
        columns.token_ids.append(np.array(piece.token_ids, dtype=np.int64))
        columns.positions.append(np.arange(position, position + num, dtype=np.int64))
        columns.kv_end.append(np.arange(kv_len + 1, kv_len + num + 1, dtype=np.int64))
        columns.is_gen.append(np.zeros(num, dtype=np.bool_))
        columns.is_vit.append(np.zeros(num, dtype=np.bool_))
    elif isinstance(piece, VitImage):
        _add_image_tokens(columns, piece.num_rows - NUM_MARKERS, position, kv_len, markers, is_vit=True)
        columns.vit_images.append(piece)
    elif isinstance(piece, VaeImage):
        num_latents = piece.num_rows - NUM_MARKERS
        _add_image_tokens(columns, num_latents, position, kv_len, markers, is_vit=False)
        columns.latent_runs.append(LatentRun(piece, columns.num_gen, num_latents, 0.0, piece.grid_height, piece.grid_width))
        columns.num_gen += num_latents


def _add_image_tokens(columns: _Columns, num_inner: int, position: int, kv_len: int, markers: Markers, *, is_vit: bool) -> None:
    """Add BOI, ``num_inner`` image tokens and EOI: one position, every token sees the whole segment."""
    num = num_inner + NUM_MARKERS
    token_ids = np.zeros(num, dtype=np.int64)
    token_ids[0], token_ids[-1] = markers.boi_id, markers.eoi_id
    inner = np.ones(num, dtype=np.bool_)
    inner[0] = inner[-1] = False
    columns.token_ids.append(token_ids)
    columns.positions.append(np.full(num, position, dtype=np.int64))
    columns.kv_end.append(np.full(num, kv_len + num, dtype=np.int64))
    columns.is_vit.append(inner if is_vit else np.zeros(num, dtype=np.bool_))
    columns.is_gen.append(np.zeros(num, dtype=np.bool_) if is_vit else inner)


def _assemble(columns: _Columns, num_single_rows: int, page_size: int, device: torch.device) -> PackedBatch:
    is_gen = np.concatenate(columns.is_gen)
    num_und = len(is_gen) - columns.num_gen
    token_index = _packed_numbers(is_gen, num_und)
    positions = np.empty(len(is_gen), dtype=np.int64)
    positions[token_index] = np.concatenate(columns.positions)
    qo_indptr = np.zeros(len(columns.num_queries) + 1, dtype=np.int64)
    np.cumsum(columns.num_queries, out=qo_indptr[1:])
    layout = _row_layout(columns, qo_indptr, token_index, num_single_rows, page_size)
    last_of_row = qo_indptr[1:][columns.draw_rows] - 1
    und_token_ids = np.concatenate(columns.token_ids)
    vit_index = token_index[np.concatenate(columns.is_vit)] if columns.vit_images else np.empty(0, dtype=np.int64)
    return PackedBatch(
        layout=layout,
        positions=put(positions, device),
        und_token_ids=put(und_token_ids[~is_gen] if columns.num_gen else und_token_ids, device),
        num_und=num_und,
        vit_index=put(vit_index, device),
        vit_images=columns.vit_images,
        latent_runs=columns.latent_runs,
        draw_index=put(token_index[last_of_row], device),
        draws=columns.draws,
    )


def put(array: Ints | npt.NDArray[np.float32], device: torch.device) -> torch.Tensor:
    """Put an array on ``device``; the host does not wait. On a CPU the tensor shares the array's memory."""
    return upload_tensor(torch.from_numpy(array), device)


def _packed_numbers(is_gen: npt.NDArray[np.bool_], num_und: int) -> Ints:
    """Number the row-ordered tokens: understanding tokens from 0, generation tokens from ``num_und``."""
    if num_und == len(is_gen):
        return np.arange(num_und, dtype=np.int64)
    return np.where(is_gen, num_und + np.cumsum(is_gen) - 1, np.cumsum(~is_gen) - 1)


def _row_layout(columns: _Columns, qo_indptr: Ints, token_index: Ints, num_single_rows: int, page_size: int) -> RowLayout:
    bounds, kv_indices = _past_pages(columns.pages, columns.past_len, page_size)
    kept_tokens: list[Ints] = [np.empty(0, dtype=np.int64)]
    slots: list[Ints] = [np.empty(0, dtype=np.int64)]
    for index in range(num_single_rows, len(columns.pages)):
        if columns.keeps[index]:
            past, num = columns.past_len[index], columns.num_queries[index]
            kept_tokens.append(token_index[qo_indptr[index] : qo_indptr[index + 1]])
            slots.append(_slots(columns.pages[index], past, num, page_size))
    if num_single_rows:
        kept_tokens.append(token_index[:num_single_rows])
        single = zip(columns.pages[:num_single_rows], columns.past_len[:num_single_rows], strict=True)
        slots.append(np.array([pages[past // page_size] * page_size + past % page_size for pages, past in single], dtype=np.int64))
    return RowLayout(
        qo_indptr=qo_indptr.astype(np.int32),
        token_index=token_index.astype(np.int32),
        kv_end=np.concatenate(columns.kv_end).astype(np.int32),
        past_len=np.array(columns.past_len, dtype=np.int32),
        kv_indptr=np.array(bounds, dtype=np.int32),
        kv_indices=kv_indices,
        write_tokens=np.concatenate(kept_tokens),
        write_slots=np.concatenate(slots),
        num_single_rows=num_single_rows,
        page_size=page_size,
    )


def _past_pages(tables: Sequence[Pages], past_len: Sequence[int], page_size: int) -> tuple[list[int], npt.NDArray[np.int32]]:
    """Return where each row's pages of the past begin among those of all, and all of them."""
    bounds, joined = [0], page_table()
    for pages, past in zip(tables, past_len, strict=True):
        joined.extend(pages[: -(-past // page_size)])
        bounds.append(len(joined))
    return bounds, np.array(joined, dtype=np.int32)


def _slots(pages: Pages, start: int, num_rows: int, page_size: int) -> Ints:
    """Return the slots of rows ``start .. start+num_rows-1`` of a context."""
    first = start // page_size
    table = np.array(pages[first : -(-(start + num_rows) // page_size)], dtype=np.int64)
    rows = np.arange(start, start + num_rows, dtype=np.int64)
    return table[rows // page_size - first] * page_size + rows % page_size
