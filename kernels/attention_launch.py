"""Launches the Triton attention: which tile for which rows, how many programs, where partial results go."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton

from kernels.attention_triton import attention_kernel, merge_kernel
from kernels.attention_work import device_work
from kernels.key_tiles import NO_TILES, own_tiles, page_tiles
from kernels.kv_pages import KvPages
from kernels.plan import AttentionPlan, DeviceWork
from kernels.tiles import PIECE, WIDE_HEAD, Generation, Kind, TileShape, generation_of, tile_shape

LOG2_E = 1.4426950408889634
INTERPRETED_MULTIPROCESSORS = 3
"""Few, so that programs of the interpreter walk several waves of the list."""


def attend_with_triton(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pages: KvPages, plan: AttentionPlan) -> torch.Tensor:
    """Same contract as `kernels.attention.interleaved_attention`, on a CUDA device or in Triton's interpreter.

    The heads of a token stand together, and so do the tokens of a page; pages of keys and of values have equal strides.

    Raises:
        ValueError: heads wider than 128, or more query heads to a key head than a tile has rows.
    """
    return attend_with_tiles(q, k, v, pages, plan, shipped_tiles(q.device, k.shape[2], has_fp8_pages=pages.is_fp8))


@dataclass(frozen=True, slots=True)
class Tiles:
    """How programs are cut for rows of one query, and for all others."""

    decode: TileShape
    long: TileShape


def shipped_tiles(device: torch.device, head_dim: int, *, has_fp8_pages: bool = False) -> Tiles:
    """Look up how programs are cut on ``device``."""
    generation = generation_of_device(device)
    decode, long = (tile_shape(generation, kind, head_dim, has_fp8_pages=has_fp8_pages) for kind in (Kind.DECODE, Kind.LONG))
    return Tiles(decode, long)


def attend_with_tiles(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pages: KvPages, plan: AttentionPlan, tiles: Tiles) -> torch.Tensor:
    """Do the same with programs cut otherwise, to find out what suits a device."""
    group, head_dim = q.shape[1] // k.shape[1], k.shape[2]
    decode, long = tiles.decode, tiles.long
    if head_dim > WIDE_HEAD or group > long.rows:
        raise ValueError(
            f"attention takes heads up to {WIDE_HEAD} wide and {long.rows} query heads to a key head, got {head_dim} and {group}"
        )
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    num_single = plan.layout.num_single_rows if group <= decode.rows else 0
    for shape, rows in ((decode, range(num_single)), (long, range(num_single, plan.layout.num_rows))):
        if len(rows):
            tiling = {"tile_queries": shape.rows // group, "tile_keys": shape.keys, "split_tiles": shape.split_tiles}
            work = device_work(plan, rows, **tiling, finds_runs=shape.own_in_bulk)
            _attend(_Operands(q, k, v, pages, out), plan, work, shape)
    return out


@dataclass(frozen=True, slots=True)
class _Operands:
    """What attention reads, and where it writes."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    pages: KvPages
    out: torch.Tensor


def _attend(operands: _Operands, plan: AttentionPlan, work: DeviceWork, shape: TileShape) -> None:
    """Run one work list into ``operands.out``, and merge the partial results it leaves."""
    q, k, v, pages, out = operands.q, operands.k, operands.v, operands.pages, operands.out
    num_kv_heads, head_dim = k.shape[1:]
    block_d = max(16, triton.next_power_of_2(head_dim))
    partial = torch.empty((work.num_slots * num_kv_heads * shape.rows, block_d), dtype=torch.float32, device=q.device)
    lse = torch.empty(len(partial), dtype=torch.float32, device=q.device)
    constants = {"NUM_KV_HEADS": num_kv_heads, "GROUP": q.shape[1] // num_kv_heads, "HEAD_DIM": head_dim}
    constants |= {"BLOCK_M": shape.rows, "BLOCK_D": block_d}
    own = own_tiles(k, v, shape.keys, block_d) if shape.own_in_bulk else NO_TILES
    past = page_tiles(pages, shape.part_keys, block_d) if shape.pages_in_bulk else NO_TILES
    num_programs = min(len(work.items) * num_kv_heads, shape.programs * num_multiprocessors(q.device))
    attention_kernel[(num_programs,)](
        q, k, v, pages.k, pages.v, *own, *past, out, partial, lse,
        plan.token_index, plan.kv_end, plan.kv_indices, work.items, work.num_items,
        head_dim**-0.5 * LOG2_E, pages.scales.k, pages.scales.v, q.stride(0), k.stride(0), v.stride(0), out.stride(0), pages.k.stride(0),
        PAGE=pages.page_size, BLOCK_N=shape.keys, BLOCK_L=shape.part_keys, BLOCK_P=PIECE, UPCAST=is_interpreted(),
        num_warps=shape.num_warps, num_stages=shape.num_stages,
        **constants,
    )  # fmt: skip
    if len(work.merges):
        merge_kernel[(len(work.merges), num_kv_heads)](
            partial, lse, out, plan.token_index, work.merges, work.num_merges, out.stride(0), num_warps=4, **constants
        )  # fmt: skip


def is_interpreted() -> bool:
    """Whether the kernels of this process run in Triton's interpreter, whose bfloat16 arithmetic is on raw bits: it needs upcasts."""
    return not isinstance(attention_kernel, triton.JITFunction)


@cache
def generation_of_device(device: torch.device) -> Generation:
    """Return what the kernels of ``device`` are compiled for; the interpreter takes the shapes of Hopper."""
    return generation_of(torch.cuda.get_device_capability(device)) if device.type == "cuda" else Generation.HOPPER


@cache
def num_multiprocessors(device: torch.device) -> int:
    """Count the multiprocessors of ``device``."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else INTERPRETED_MULTIPROCESSORS
