"""What attention is compared with on a GPU: the kernels that PyTorch brings, FlashAttention-3 and FlashInfer where they are installed.

Each is given what it wants: keys and values of a row gathered and dense, which in serving would cost extra. A peer prepares a call or says
why it cannot take the shape.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from loadtests.kernels.shapes import Segment, Shape

BACKENDS = {
    "sdpa flash": SDPBackend.FLASH_ATTENTION,
    "sdpa cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa efficient": SDPBackend.EFFICIENT_ATTENTION,
}
COMPILED_PEERS = frozenset({"flex attention", "flashinfer"})
"""They compile for each shape, for seconds."""
WORKSPACE_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Site:
    """Where and in what format a call is made."""

    dtype: torch.dtype
    device: torch.device


Call = Callable[[], object]
Peer = Callable[[Shape, Site], Call]


class CannotTake(Exception):
    """Why a peer has no number for a shape."""


def peers() -> dict[str, Peer]:
    """Return what there is to compare with, by name."""
    found: dict[str, Peer] = {name: partial(_sdpa, backend) for name, backend in BACKENDS.items()}
    found |= {"flex attention": _flex, "varlen attention": _varlen}
    if importlib.util.find_spec("fa3_fwd_interface") is not None:
        found["flash-attention 3"] = _flash_attention_3
    if importlib.util.find_spec("flashinfer") is not None:
        found["flashinfer"] = _flashinfer
    return found


# -- rows that are alike ----------------------------------------------------------------------------------------------------

Dense = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _dense(shape: Shape, site: Site) -> Dense:
    """Return queries, keys and values ``[rows, heads, tokens, d]`` where every row is alike and sees everything."""
    first, heads = shape.rows[0], shape.heads
    if len(set(shape.rows)) > 1 or not _sees_everything(shape):
        raise CannotTake("rows are not alike, or the mask is not full")
    num_keys = first.past_len + first.num_tokens
    sizes = [(heads.num_heads, first.num_tokens), (heads.num_kv_heads, num_keys), (heads.num_kv_heads, num_keys)]
    q, k, v = (torch.randn(len(shape.rows), num, length, heads.head_dim, device=site.device).to(site.dtype) for num, length in sizes)
    return q, k, v


def _sees_everything(shape: Shape) -> bool:
    """Tell whether every query sees every key of its row."""
    return all(len(row.segments) == 1 and (row.num_tokens == 1 or row.segments[0][0] is not Segment.TEXT) for row in shape.rows)


def _sdpa(backend: SDPBackend, shape: Shape, site: Site) -> Call:
    dense = _dense(shape, site)

    def attend() -> object:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(*dense, enable_gqa=dense[0].shape[1] != dense[1].shape[1])

    return attend


def _flash_attention_3(shape: Shape, site: Site) -> Call:
    from fa3_fwd_interface import flash_attn_func  # type: ignore[import-not-found]

    return partial(flash_attn_func, *(x.transpose(1, 2) for x in _dense(shape, site)))


# -- rows of any length -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows one after the other: ``q[T, Hq, d]``, ``k`` and ``v`` ``[K, Hk, d]``, and where each row begins among both, int32."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    q_starts: torch.Tensor
    k_starts: torch.Tensor


def _ragged(shape: Shape, site: Site) -> Ragged:
    heads, device = shape.heads, site.device
    q_starts = [0, *accumulate(row.num_tokens for row in shape.rows)]
    k_starts = [0, *accumulate(row.past_len + row.num_tokens for row in shape.rows)]
    sizes = ((q_starts[-1], heads.num_heads), (k_starts[-1], heads.num_kv_heads), (k_starts[-1], heads.num_kv_heads))
    q, k, v = (torch.randn(*size, heads.head_dim, device=device).to(site.dtype) for size in sizes)
    starts = (torch.tensor(column, dtype=torch.int32, device=device) for column in (q_starts, k_starts))
    return Ragged(q, k, v, *starts)


def _longest(shape: Shape) -> tuple[int, int]:
    return max(row.num_tokens for row in shape.rows), max(row.past_len + row.num_tokens for row in shape.rows)


def _varlen(shape: Shape, site: Site) -> Call:
    from torch.nn.attention.varlen import varlen_attn

    if not _sees_everything(shape):
        raise CannotTake("the mask is not full")
    rows = _ragged(shape, site)
    call = partial(varlen_attn, rows.q, rows.k, rows.v, rows.q_starts, rows.k_starts, *_longest(shape))
    return partial(call, enable_gqa=True) if shape.heads.group > 1 and asks_for_grouped_heads(varlen_attn) else call


def asks_for_grouped_heads(varlen_attn: Callable[..., object]) -> bool:
    """Tell whether the function must be told that heads are grouped; PyTorch 2.11's has no such argument and takes them as they are."""
    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def _flashinfer(shape: Shape, site: Site) -> Call:
    from flashinfer import BatchPrefillWithRaggedKVCacheWrapper  # type: ignore[import-not-found]

    if not _sees_everything(shape):
        raise CannotTake("the mask is not full")
    rows, heads = _ragged(shape, site), shape.heads
    wrapper = BatchPrefillWithRaggedKVCacheWrapper(torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=site.device), "NHD")
    wrapper.plan(rows.q_starts, rows.k_starts, heads.num_heads, heads.num_kv_heads, heads.head_dim, causal=False, q_data_type=site.dtype)
    return partial(wrapper.run, rows.q, rows.k, rows.v)


def _flex(shape: Shape, site: Site) -> Call:
    """Give FlexAttention the very mask: rows apart, and each query's end of what it sees; compiled on a GPU, where that is its point."""
    rows, device = _ragged(shape, site), site.device
    ends = torch.tensor([end for row in shape.rows for end in _ends(row.past_len, row.segments)], device=device)
    row_of_q, row_of_k = (
        torch.arange(len(shape.rows), device=device).repeat_interleave(at.diff()) for at in (rows.q_starts, rows.k_starts)
    )
    place = torch.arange(len(rows.k), device=device) - rows.k_starts[row_of_k]

    def sees(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        return (row_of_q[q] == row_of_k[kv]) & (place[kv] < ends[q])

    mask = create_block_mask(sees, None, None, len(rows.q), len(rows.k), device=device)
    if device.type == "cuda":
        torch.compiler.reset()  # from the second shape on it would compile for shapes that change, which is slower
        attend = torch.compile(flex_attention, dynamic=False)
    else:
        attend = flex_attention
    q, k, v = (x.transpose(0, 1)[None] for x in (rows.q, rows.k, rows.v))
    return partial(attend, q, k, v, block_mask=mask, enable_gqa=shape.heads.group > 1)


def _ends(start: int, segments: tuple[tuple[Segment, int], ...]) -> list[int]:
    """Return how many keys of its row each query sees."""
    ends: list[int] = []
    for kind, length in segments:
        ends += range(start + 1, start + length + 1) if kind is Segment.TEXT else [start + length] * length
        start += length
    return ends
