"""The C kernels as methods on tensors: float32 on a CPU (`linear` bfloat16 too), without autograd.

The ``…_fits`` functions say which tensors a method takes; the ops ask them, and go the torch way otherwise. A call costs a few
microseconds: types are declared once, and nothing but pointers and sizes is passed.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Protocol

import torch

from kernels.kv_pages import KvPages
from kernels.native_beside import NativeBeside
from kernels.native_conv import NativeConv
from kernels.native_library import NativeBuildError, open_native_library
from kernels.native_scratch import Scratch
from kernels.native_threads import native_threads
from kernels.plan import AttentionPlan

# (cos, sin), each [T, d]
Angles = tuple[torch.Tensor, torch.Tensor]
# (q, k, qkv) of `kernels.expert.HeadRoom`
Room = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
POINTER, LONG, INT, FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float

# Up to here a product's time is that of reading the weight: all layers go in one call, and bfloat16, which the library multiplies with
# instructions of its own beyond, is native.
MAX_SKINNY_ROWS = 24
# Tokens that go through the second part of a layer together: what lies between its products stays in the caches.
FINISHED_TOGETHER = 192
# The C side keeps one query tile on its stack.
MAX_HEAD_DIM = 512
HEAD_DIM_STEP = 8

logger = logging.getLogger(__name__)


class _Heads(ctypes.Structure):
    _fields_ = (("x", POINTER), ("weight", POINTER), ("out", POINTER), ("token_stride", LONG), ("num_heads", LONG))


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("q", "k", "v", "k_pages", "v_pages", "out")),
        *((name, POINTER) for name in ("qo_indptr", "token_index", "kv_end", "past_len", "kv_indptr", "kv_indices")),
        *((name, LONG) for name in ("num_rows", "num_heads", "num_kv_heads", "head_dim", "page_size")),
        *((name, LONG) for name in ("q_token", "q_head", "k_token", "k_head", "v_token", "v_head")),
    )


class _Expert(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("input_norm", "qkv_weight", "qkv_bias", "q_norm", "k_norm", "o_weight")),
        *((name, POINTER) for name in ("mlp_norm", "gate_up_weight", "down_weight")),
        *((name, LONG) for name in ("hidden", "wide", "num_heads", "num_kv_heads", "head_dim")),
        ("eps", FLOAT),
    )


ExpertArray = ctypes.Array[_Expert]


class Expert(Protocol):
    """What the two expert kernels read of `kernels.expert.ExpertWeights`."""

    @property
    def input_norm(self) -> torch.Tensor: ...
    @property
    def qkv_weight(self) -> torch.Tensor: ...
    @property
    def qkv_bias(self) -> torch.Tensor: ...
    @property
    def q_norm(self) -> torch.Tensor: ...
    @property
    def k_norm(self) -> torch.Tensor: ...
    @property
    def o_weight(self) -> torch.Tensor: ...
    @property
    def mlp_norm(self) -> torch.Tensor: ...
    @property
    def gate_up_weight(self) -> torch.Tensor: ...
    @property
    def down_weight(self) -> torch.Tensor: ...
    @property
    def eps(self) -> float: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...


def _expert(weights: Expert) -> _Expert:
    hidden, wide = weights.down_weight.shape
    return _Expert(
        weights.input_norm.data_ptr(), weights.qkv_weight.data_ptr(), weights.qkv_bias.data_ptr(), weights.q_norm.data_ptr(),
        weights.k_norm.data_ptr(), weights.o_weight.data_ptr(), weights.mlp_norm.data_ptr(), weights.gate_up_weight.data_ptr(),
        weights.down_weight.data_ptr(), hidden, wide, weights.num_heads, weights.num_kv_heads, weights.q_norm.shape[0], weights.eps,
    )  # fmt: skip


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pages: KvPages, plan: AttentionPlan, out: torch.Tensor) -> _Attention:
    return _Attention(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), pages.k.data_ptr(), pages.v.data_ptr(), out.data_ptr(),
        plan.qo_indptr.data_ptr(), plan.token_index.data_ptr(), plan.kv_end.data_ptr(),
        plan.past_len.data_ptr(), plan.kv_indptr.data_ptr(), plan.kv_indices.data_ptr(),
        plan.layout.num_rows, q.shape[1], k.shape[1], q.shape[2], pages.page_size,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
    )  # fmt: skip


def expert_array(experts: Sequence[Expert]) -> ExpertArray:
    """Return the weights of a stack of layers as the C side reads them: pointers, good while the tensors stay where they are."""
    return (_Expert * len(experts))(*(_expert(weights) for weights in experts))


class _PageWrite(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("k", "v", "k_pages", "v_pages", "tokens", "slots")),
        *((name, LONG) for name in ("num_kept", "k_token", "v_token", "width")),
    )


class _Pass(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("x", "next", "normed", "qkv", "q", "k", "attended", "scratch", "cos", "sin", "pool")),
        *((name, LONG) for name in ("layer_values", "values_offset")),
    )


class NativeKernels:
    """The opened library. All tensors are on the CPU; results are new contiguous tensors."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.conv = NativeConv(library)
        self.beside = NativeBeside(library)
        self._scratch = Scratch()
        product = (POINTER, LONG, POINTER, POINTER, POINTER, LONG, LONG, LONG, INT)
        self._linear_float32 = library.linear_float32
        self._linear_float32.argtypes, self._linear_float32.restype = product, None
        self._linear_bfloat16 = library.linear_bfloat16
        self._linear_bfloat16.argtypes, self._linear_bfloat16.restype = product, INT
        self._rms_norm = {torch.float32: library.rms_norm_float32, torch.bfloat16: library.rms_norm_bfloat16}
        for norm in self._rms_norm.values():
            norm.argtypes, norm.restype = [POINTER, POINTER, POINTER, LONG, LONG, FLOAT, INT], None
        self._silu_mul = {torch.float32: library.silu_mul_float32, torch.bfloat16: library.silu_mul_bfloat16}
        for product_of_halves in self._silu_mul.values():
            product_of_halves.argtypes, product_of_halves.restype = [POINTER, POINTER, LONG, LONG, INT], None
        self._qk_norm_rope = library.qk_norm_rope_float32
        heads = ctypes.POINTER(_Heads)
        self._qk_norm_rope.argtypes, self._qk_norm_rope.restype = [heads, heads, POINTER, POINTER, LONG, LONG, FLOAT, INT], None
        expert = ctypes.POINTER(_Expert)
        self._project = library.expert_project_float32
        self._project.argtypes, self._project.restype = [expert, *[POINTER] * 7, LONG, INT], None
        self._finish = library.expert_finish_float32
        self._finish.argtypes, self._finish.restype = [expert, *[POINTER] * 4, LONG, INT], None
        self._layers = library.expert_layers_float32
        whole_pass, plan, writes = ctypes.POINTER(_Pass), ctypes.POINTER(_Attention), ctypes.POINTER(_PageWrite)
        self._layers.argtypes, self._layers.restype = [expert, LONG, POINTER, whole_pass, plan, writes, LONG, INT], POINTER
        self._write_pages = library.write_pages_float32
        self._write_pages.argtypes, self._write_pages.restype = [ctypes.POINTER(_PageWrite)], None
        self._attention = library.attention_float32
        self._attention.argtypes, self._attention.restype = [ctypes.POINTER(_Attention), LONG, LONG, INT], None

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """``x[T, K] @ weight[N, K].T + bias[N]``; all float32 or all bfloat16 (summed in float32), see `linear_fits`.

        In float32 a row's result has the same bits whatever ``T`` is.
        """
        num_rows, depth = x.shape
        num_outputs = weight.shape[0]
        out = torch.empty((num_rows, num_outputs), dtype=x.dtype)
        function = self._linear_float32 if x.dtype is torch.float32 else self._linear_bfloat16
        failed = function(
            x.data_ptr(), x.stride(0), weight.data_ptr(), None if bias is None else bias.data_ptr(), out.data_ptr(),
            num_rows, num_outputs, depth, native_threads(),
        )  # fmt: skip
        if failed:
            raise MemoryError(f"no memory for a float32 copy of x[{num_rows}, {depth}]")
        return out

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """`kernels.rms_norm.rms_norm` for contiguous float32 or bfloat16."""
        out = torch.empty_like(x)
        dim = x.shape[-1]
        self._rms_norm[x.dtype](x.data_ptr(), weight.data_ptr(), out.data_ptr(), x.numel() // dim, dim, eps, native_threads())
        return out

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """`kernels.silu_mul.silu_mul` for contiguous float32 or bfloat16."""
        num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty((num_rows, width), dtype=gate_up.dtype)
        self._silu_mul[gate_up.dtype](gate_up.data_ptr(), out.data_ptr(), num_rows, width, native_threads())
        return out

    def qk_norm_rope(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        q_weight: torch.Tensor,
        k_weight: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`kernels.qk_norm_rope.qk_norm_rope` for float32; the heads of a token stand together, see `qk_norm_rope_fits`."""
        num_tokens, num_heads, head_dim = q.shape
        q_out = torch.empty((num_tokens, num_heads, head_dim), dtype=torch.float32)
        k_out = torch.empty((num_tokens, k.shape[1], head_dim), dtype=torch.float32)
        queries = _Heads(q.data_ptr(), q_weight.data_ptr(), q_out.data_ptr(), q.stride(0), num_heads)
        keys = _Heads(k.data_ptr(), k_weight.data_ptr(), k_out.data_ptr(), k.stride(0), k.shape[1])
        cos, sin = angles
        self._qk_norm_rope(queries, keys, cos.data_ptr(), sin.data_ptr(), num_tokens, head_dim, eps, native_threads())
        return q_out, k_out

    def project_heads(self, x: torch.Tensor, angles: Angles, weights: Expert, room: Room) -> None:
        """`kernels.expert.project_heads` for float32 into contiguous ``room``, see `expert_fits`."""
        normed, (cos, sin), (q, k, qkv) = self._scratch.of(x.numel()), angles, room
        self._project(
            _expert(weights), x.data_ptr(), cos.data_ptr(), sin.data_ptr(), normed.data_ptr(), qkv.data_ptr(), q.data_ptr(), k.data_ptr(),
            len(x), native_threads(),
        )  # fmt: skip

    def finish_layer(self, x: torch.Tensor, attended: torch.Tensor, weights: Expert, out: torch.Tensor) -> None:
        """`kernels.expert.finish_layer` for float32 into contiguous ``out [T, hidden]``, see `expert_fits`."""
        num_tokens, hidden = x.shape
        scratch = self._scratch.of(min(num_tokens, FINISHED_TOGETHER) * (hidden + 3 * weights.down_weight.shape[1]))
        expert, num_threads = _expert(weights), native_threads()
        x_row, attended_row = 4 * hidden, 4 * weights.o_weight.shape[1]
        for start in range(0, num_tokens, FINISHED_TOGETHER):
            self._finish(
                expert, x.data_ptr() + start * x_row, attended.data_ptr() + start * attended_row, scratch.data_ptr(),
                out.data_ptr() + start * x_row, min(FINISHED_TOGETHER, num_tokens - start), num_threads,
            )  # fmt: skip

    def expert_layers(
        self, x: torch.Tensor, angles: Angles, stack: ExpertArray, last_norm: torch.Tensor, kv_pool: torch.Tensor, plan: AttentionPlan
    ) -> torch.Tensor:
        """`kernels.expert_layers.run_layers`; ``stack`` comes from `expert_array`."""
        first = stack[0]
        num_tokens, hidden = x.shape
        heads, kv_heads, d = first.num_heads, first.num_kv_heads, first.head_dim
        out = torch.empty((2, num_tokens, hidden), dtype=torch.float32)
        out[0].copy_(x)
        parts = [hidden, (heads + 2 * kv_heads) * d, heads * d, kv_heads * d, heads * d, hidden + 3 * first.wide]
        scratch = self._scratch.of(num_tokens * sum(parts)).data_ptr()
        starts = [scratch + 4 * num_tokens * sum(parts[:index]) for index in range(len(parts))]
        start, half = out.data_ptr(), 4 * num_tokens * hidden
        cos, sin = angles
        step = _Pass(start, start + half, *starts, cos.data_ptr(), sin.data_ptr(), kv_pool.data_ptr(), kv_pool.stride(0), kv_pool.stride(1))
        attention = _Attention(
            None, None, None, None, None, None,
            plan.qo_indptr.data_ptr(), plan.token_index.data_ptr(), plan.kv_end.data_ptr(),
            plan.past_len.data_ptr(), plan.kv_indptr.data_ptr(), plan.kv_indices.data_ptr(),
            plan.layout.num_rows, heads, kv_heads, d, kv_pool.shape[3],
        )  # fmt: skip
        writes = _PageWrite(None, None, None, None, plan.write_tokens.data_ptr(), plan.write_slots.data_ptr(), len(plan.write_tokens))
        result = self._layers(stack, len(stack), last_norm.data_ptr(), step, attention, writes, num_tokens, native_threads())
        return out[0] if result == start else out[1]

    def write_pages(self, k: torch.Tensor, v: torch.Tensor, pages: KvPages, plan: AttentionPlan) -> None:
        """`kernels.pages.write_pages` for float32, see `write_pages_fits`."""
        call = _PageWrite(
            k.data_ptr(), v.data_ptr(), pages.k.data_ptr(), pages.v.data_ptr(), plan.write_tokens.data_ptr(), plan.write_slots.data_ptr(),
            plan.write_tokens.shape[0], k.stride(0), v.stride(0), k.shape[1] * k.shape[2],
        )  # fmt: skip
        self._write_pages(call)

    def attention(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pages: KvPages, plan: AttentionPlan) -> torch.Tensor:
        """`kernels.attention.interleaved_attention` for float32, see `attention_fits`."""
        out = torch.empty(q.shape, dtype=torch.float32)
        self._attention(_attention(q, k, v, pages, plan, out), 0, 1, native_threads())
        return out

    def attention_in_parts(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pages: KvPages, plan: AttentionPlan, num_parts: int
    ) -> Generator[None, None, torch.Tensor]:
        """Do the same in parts of about equal work, and yield after each."""
        out = torch.empty(q.shape, dtype=torch.float32)
        call = _attention(q, k, v, pages, plan, out)
        for part in range(num_parts):
            self._attention(call, part, num_parts, native_threads())
            yield
        return out

    def picture_attention(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: list[int]) -> torch.Tensor:
        """`kernels.picture_attention.picture_attention`; picture i is patches ``starts[i]`` to ``starts[i + 1] - 1``."""
        out = torch.empty(q.shape, dtype=torch.float32)
        indptr = torch.tensor(starts, dtype=torch.int32)
        lengths = indptr.diff()
        tokens, ends, no_past = torch.arange(len(q), dtype=torch.int32), lengths.repeat_interleave(lengths), torch.zeros_like(indptr)
        call = _Attention(
            q.data_ptr(), k.data_ptr(), v.data_ptr(), None, None, out.data_ptr(),
            indptr.data_ptr(), tokens.data_ptr(), ends.data_ptr(), no_past.data_ptr(), no_past.data_ptr(), None,
            len(lengths), q.shape[1], k.shape[1], q.shape[2], 1,
            q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        )  # fmt: skip
        self._attention(call, 0, 1, native_threads())
        return out


def is_plain(*tensors: torch.Tensor) -> bool:
    """Whether all tensors are contiguous float32 on the CPU and nobody records gradients."""
    if torch.is_grad_enabled():
        return False
    for x in tensors:  # noqa: SIM110  (a generator costs more than the checks, 16 times a decoded token)
        if x.dtype is not torch.float32 or not x.is_cpu or not x.is_contiguous():
            return False
    return True


def is_dense(*tensors: torch.Tensor) -> bool:
    """Whether all tensors are contiguous on the CPU, all float32 or all bfloat16, and nobody records gradients."""
    dtype = tensors[0].dtype
    if torch.is_grad_enabled() or (dtype is not torch.float32 and dtype is not torch.bfloat16):
        return False
    for x in tensors:  # noqa: SIM110  (as in `is_plain`)
        if x.dtype is not dtype or not x.is_cpu or not x.is_contiguous():
            return False
    return True


def has_whole_heads(x: torch.Tensor) -> bool:
    """Whether the heads of each token of ``x[T, H, d]`` stand together, in float32 on the CPU; tokens may lie apart."""
    return x.dtype is torch.float32 and x.is_cpu and x.stride(2) == 1 and x.stride(1) == x.shape[2]


def linear_fits(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether `NativeKernels.linear` takes these tensors: any float32 rows, and bfloat16 where it is the faster way."""
    return (
        x.dim() == 2
        and x.shape[0] > 0
        and (x.dtype is torch.float32 or (x.dtype is torch.bfloat16 and x.shape[0] <= MAX_SKINNY_ROWS))
        and weight.dtype is x.dtype
        and (bias is None or bias.dtype is x.dtype)
        and x.is_cpu
        and not torch.is_grad_enabled()
        and x.stride(1) == 1
        and weight.is_contiguous()
    )


def qk_norm_rope_fits(q: torch.Tensor, k: torch.Tensor, weight: torch.Tensor, angles: Angles) -> bool:
    """Whether `NativeKernels.qk_norm_rope` takes these tensors."""
    return is_plain(weight, *angles) and has_whole_heads(q) and has_whole_heads(k)


def expert_fits(x: torch.Tensor, weight: torch.Tensor, other: torch.Tensor, angles: tuple[torch.Tensor, ...]) -> bool:
    """Whether the expert kernels take these tensors: all of one expert's weights are contiguous and of one dtype."""
    return x.shape[0] > 0 and is_plain(x, weight, other, *angles)


def stack_fits(x: torch.Tensor, kv_pool: torch.Tensor) -> bool:
    """Whether `NativeKernels.expert_layers` is meant for these tokens ``[T, hidden]`` and takes this pool ``[L, 2, P, page, Hk, d]``."""
    head_dim = kv_pool.shape[-1]
    return x.shape[0] <= MAX_SKINNY_ROWS and is_plain(kv_pool) and head_dim % HEAD_DIM_STEP == 0 and head_dim <= MAX_HEAD_DIM


def write_pages_fits(k: torch.Tensor, v: torch.Tensor, pages: KvPages) -> bool:
    """Whether `NativeKernels.write_pages` takes these tensors: the heads of a token stand together."""
    return is_plain(pages.k, pages.v) and has_whole_heads(k) and has_whole_heads(v)


def picture_attention_fits(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether `NativeKernels.picture_attention` takes these tensors."""
    return not torch.is_grad_enabled() and _heads_fit(q, k, v)


def attention_fits(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pages: KvPages) -> bool:
    """Whether `NativeKernels.attention` takes these tensors."""
    return is_plain(pages.k, pages.v) and _heads_fit(q, k, v)


def _heads_fit(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    return (
        q.shape[2] % HEAD_DIM_STEP == 0
        and q.shape[2] <= MAX_HEAD_DIM
        and q.dtype is k.dtype is v.dtype is torch.float32
        and q.is_cpu
        and q.stride(2) == k.stride(2) == v.stride(2) == 1
    )


@functools.cache
def native_kernels(cache_directory: Path | None = None) -> NativeKernels | None:
    """The C kernels of this machine, built and opened on the first call; None, with a warning in the log, where that is impossible."""
    try:
        kernels = NativeKernels(open_native_library(cache_directory))
    except NativeBuildError as error:
        logger.warning("native CPU kernels are not available, torch does their work more slowly: %s", error)
        return None
    logger.info("native CPU kernels are in use")
    return kernels
