"""Descriptors of key tiles: rows that stand one behind the other, moved by one bulk copy (TMA, Hopper and later).

They are made on the host at each launch and passed by value. A kernel that made its own would need memory for them at each launch, from an
allocator that every thread sets anew, and would begin by writing them and waiting until the copy engine sees them; a captured graph keeps
what it was launched with, since the memory it reads stays where it is.
"""

from __future__ import annotations

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.kv_pages import KvPages

ALIGNMENT = 16
"""Bytes: what a bulk copy's first address and its strides are multiples of."""


KeyTiles = tuple[TensorDescriptor, TensorDescriptor] | tuple[None, None]
"""Of keys and of values."""
NO_TILES: KeyTiles = (None, None)


def own_tiles(k: torch.Tensor, v: torch.Tensor, tile_keys: int, width: int) -> KeyTiles:
    """Describe tiles of ``tile_keys`` rows of ``k`` and ``v`` ``[num_tokens, num_kv_heads, head_dim]``, heads padded to ``width``."""
    if not (_can_be_described(k) and _can_be_described(v)):
        return NO_TILES
    return _tiles(k, tile_keys, width), _tiles(v, tile_keys, width)


def page_tiles(pages: KvPages, tile_keys: int, width: int) -> KeyTiles:
    """Describe the same of pages, where each holds whole tiles and numbers of the batch's own format."""
    if pages.is_fp8 or pages.page_size % tile_keys or not (pages.k.is_contiguous() and pages.v.is_contiguous()):
        return NO_TILES
    return own_tiles(pages.k.flatten(0, 1), pages.v.flatten(0, 1), tile_keys, width)


def _can_be_described(x: torch.Tensor) -> bool:
    row, head, one = x.stride()
    return one == 1 and not any(num_bytes % ALIGNMENT for num_bytes in (x.data_ptr(), row * x.itemsize, head * x.itemsize))


def _tiles(x: torch.Tensor, tile_keys: int, width: int) -> TensorDescriptor:
    num_rows, num_heads, head_dim = x.shape
    row, head, one = x.stride()
    return TensorDescriptor(x, [num_heads, num_rows, head_dim], [head, row, one], [1, tile_keys, width])
