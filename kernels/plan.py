"""The plan of one ragged attention call: which query tokens form which rows, and where their keys live.

Built once per step on the host (numpy, no Python loop over tokens) and shared by every layer. The packed batch holds tokens in
expert order ``[understanding | generation]``; attention thinks in *row order*, where the tokens of one context stand together.
``token_index`` is the permutation between the two, so neither projections nor attention ever gather.

    row order      | row 0: 1 decode token | row 1: 5 prompt tokens | row 2: BOI, 4 latents, EOI |
    keys of row r  | past_len[r] keys in pages kv_indices[kv_indptr[r]:kv_indptr[r+1]] | then the row's own tokens, in row order |
    mask           | query i sees keys 0 .. kv_end[i]-1 of its own row, counted from the first key in pages |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from kernels.upload import upload_tensor

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RowLayout:
    """The host side of a plan: plain arrays in row order, int32 but for the write columns, which are int64.

    Attributes:
        qo_indptr: ``[num_rows + 1]`` start of each row's query tokens. Rows with exactly one query come first.
        token_index: ``[num_tokens]`` packed index of each row-ordered token.
        kv_end: ``[num_tokens]`` number of keys the query sees, own keys included; ``1 <= kv_end <= past_len + row length``.
        past_len: ``[num_rows]`` keys that lie in pages.
        kv_indptr: ``[num_rows + 1]`` start of each row's pages in ``kv_indices``.
        kv_indices: ``[num_row_pages]`` physical page of each logical page.
        write_tokens: ``[num_kept]`` packed index of every token whose keys and values are kept.
        write_slots: ``[num_kept]`` slot (page x page_size + offset) each of them is written to.
        num_single_rows: how many leading rows have exactly one query.
        page_size: tokens in a page.
    """

    qo_indptr: IntArray
    token_index: IntArray
    kv_end: IntArray
    past_len: IntArray
    kv_indptr: IntArray
    kv_indices: IntArray
    write_tokens: LongArray
    write_slots: LongArray
    num_single_rows: int
    page_size: int

    @property
    def num_rows(self) -> int:
        return len(self.past_len)

    @property
    def num_tokens(self) -> int:
        return len(self.token_index)

    @property
    def num_pairs(self) -> int:
        """Pairs of a query and a key that it sees."""
        return int(self.kv_end.sum())


WorkKey = tuple[int, int, int, int, int, bool]
"""First row, end of the rows, queries and keys of a tile, key tiles of a split, whether runs are found."""


@dataclass(frozen=True, slots=True)
class DeviceWork:
    """A work list (`kernels.attention_work.HostWork`) on the device, int32.

    Attributes:
        num_items, num_merges: ``[1]``, what the kernels read; items: ``[max_items, 11]``; merges: ``[max_merges, 4]``.
        num_slots: partial results to make room for.
        joined: the memory all of them are in, one after the other.
    """

    num_items: torch.Tensor
    items: torch.Tensor
    num_merges: torch.Tensor
    merges: torch.Tensor
    num_slots: int
    joined: torch.Tensor


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """A `RowLayout` on the host and the same arrays on the device (int32; write indices int64, as ``index_copy_`` wants).

    ``token_slots [num_tokens]`` is the slot each packed token is written to, int64, -1 for none. ``work`` remembers the GPU kernels' work
    lists: the first layer that attends builds them, while the device is busy with the projections before it, and all others share them.
    The lists of a plan that ``is_static``, whose arrays change in place from step to step, have room for any such step.
    """

    layout: RowLayout
    qo_indptr: torch.Tensor
    token_index: torch.Tensor
    kv_end: torch.Tensor
    past_len: torch.Tensor
    kv_indptr: torch.Tensor
    kv_indices: torch.Tensor
    write_tokens: torch.Tensor
    write_slots: torch.Tensor
    token_slots: torch.Tensor
    is_static: bool = False
    work: dict[WorkKey, DeviceWork] = field(default_factory=dict)


def build_attention_plan(layout: RowLayout, device: torch.device) -> AttentionPlan:
    """Put a layout on ``device``. On a CPU the tensors share the arrays' memory; elsewhere all arrive in one copy that nobody waits for."""
    token_slots = np.full(layout.num_tokens, -1, dtype=np.int64)
    token_slots[layout.write_tokens] = layout.write_slots
    arrays: list[IntArray | LongArray] = [layout.write_tokens, layout.write_slots, token_slots, layout.qo_indptr, layout.token_index]
    arrays += [layout.kv_end, layout.past_len, layout.kv_indptr, layout.kv_indices]
    put = [torch.from_numpy(array) for array in arrays] if device.type == "cpu" else put_together(arrays, device)
    write_tokens, write_slots, slots, qo_indptr, token_index, kv_end, past_len, kv_indptr, kv_indices = put
    return AttentionPlan(
        layout=layout,
        qo_indptr=qo_indptr,
        token_index=token_index,
        kv_end=kv_end,
        past_len=past_len,
        kv_indptr=kv_indptr,
        kv_indices=kv_indices,
        write_tokens=write_tokens,
        write_slots=write_slots,
        token_slots=slots,
    )


def put_together(arrays: Sequence[IntArray | LongArray], device: torch.device) -> list[torch.Tensor]:
    """Put arrays on ``device`` in one copy, since each upload takes the host microseconds, and return them one by one.

    64-bit ones come first: each part must begin at a multiple of its own width.
    """
    parts = [np.ascontiguousarray(array).view(np.uint8) for array in arrays]
    on_device = upload_tensor(torch.from_numpy(np.concatenate(parts)), device)
    dtypes = [torch.int64 if array.itemsize == 8 else torch.int32 for array in arrays]
    return [part.view(dtype) for part, dtype in zip(on_device.split([len(part) for part in parts]), dtypes, strict=True)]
