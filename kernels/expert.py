"""What one expert does with its tokens before and after attention: two fused ops, so that a decoded token costs few calls.

Float32 on a CPU goes through one native call each, which gives a token the same bits in any batch; everything else is the composition of
the single ops.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.fp8 import Fp8Rows
from kernels.linear import fp8_linear, fp8_product, linear
from kernels.native_kernels import expert_fits, native_kernels
from kernels.norm_to_fp8 import add_rms_norm_to_fp8, rms_norm_to_fp8
from kernels.qk_norm_rope import qk_norm_rope
from kernels.rms_norm import add_rms_norm, rms_norm
from kernels.silu_mul import silu_mul
from kernels.silu_mul_to_fp8 import silu_mul_to_fp8


@dataclass(frozen=True, slots=True)
class ExpertScales:
    """The scales ``[N]`` float32 of an expert's matrices where these are 8-bit floats, one to an output channel."""

    qkv: torch.Tensor
    o: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor

    @property
    def in_order(self) -> tuple[torch.Tensor, ...]:
        """All four, in the order of the fields."""
        return self.qkv, self.o, self.gate_up, self.down


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """The weights of one expert in one layer.

    Attributes:
        input_norm, mlp_norm: ``[hidden]``; q_norm, k_norm: ``[d]``.
        qkv_weight, qkv_bias: ``[(Hq + 2 Hk) d, hidden]`` and its bias, rows in the order q, k, v.
        o_weight: ``[hidden, Hq d]``; gate_up_weight: ``[2 wide, hidden]``; down_weight: ``[hidden, wide]``.
        rotates_in_float32: whether q and k are normed and rotated in float32 whatever the dtype (spec 9).
        scales: of the four matrices, where they are 8-bit floats.
    """

    input_norm: torch.Tensor
    qkv_weight: torch.Tensor
    qkv_bias: torch.Tensor
    q_norm: torch.Tensor
    k_norm: torch.Tensor
    o_weight: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up_weight: torch.Tensor
    down_weight: torch.Tensor
    eps: float
    num_heads: int
    num_kv_heads: int
    rotates_in_float32: bool
    scales: ExpertScales | None = None

    def normed_qkv(self, x: torch.Tensor) -> torch.Tensor:
        """Norm the residual stream ``x [T, hidden]`` and project it to queries, keys and values: ``[T, (Hq + 2 Hk) d]``."""
        if self.scales is None:
            return linear(rms_norm(x, self.input_norm, self.eps), self.qkv_weight, self.qkv_bias)
        rows = rms_norm_to_fp8(x, self.input_norm, self.eps)
        return fp8_product(rows, Fp8Rows(self.qkv_weight, self.scales.qkv), x.dtype, self.qkv_bias)

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Add attention's output ``[T, Hq d]``, projected back, and then the feed-forward, to ``x [T, hidden]``; returns a new tensor."""
        if self.scales is None:
            x, normed = add_rms_norm(linear(attended, self.o_weight), x, self.mlp_norm, self.eps)
            return linear(silu_mul(linear(normed, self.gate_up_weight)), self.down_weight).add_(x)
        o, gate_up, down = (
            Fp8Rows(weight, scales)
            for weight, scales in zip((self.o_weight, self.gate_up_weight, self.down_weight), self.scales.in_order[1:], strict=True)
        )
        x, rows = add_rms_norm_to_fp8(fp8_linear(attended, o), x, self.mlp_norm, self.eps)
        return fp8_product(silu_mul_to_fp8(fp8_product(rows, gate_up, x.dtype)), down, x.dtype).add_(x)


Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class HeadRoom:
    """Where the heads of several blocks of tokens, of either expert, come to stand together.

    Attributes:
        q, k: ``[T, Hq, d]`` and ``[T, Hk, d]``; qkv: ``[T, Hq + 2 Hk, d]``, whose last heads are v and whose others are scratch.
    """

    q: torch.Tensor
    k: torch.Tensor
    qkv: torch.Tensor

    @classmethod
    def of_tokens(cls, num_tokens: int, like: torch.Tensor, weights: ExpertWeights) -> HeadRoom:
        """Make room for so many tokens, uninitialised, of the dtype and on the device of ``like``."""
        num_heads, num_kv_heads, head_dim = weights.num_heads, weights.num_kv_heads, len(weights.q_norm)
        q, k, qkv = (like.new_empty(num_tokens, num, head_dim) for num in (num_heads, num_kv_heads, num_heads + 2 * num_kv_heads))
        return cls(q, k, qkv)

    def part(self, tokens: slice) -> HeadRoom:
        return HeadRoom(self.q[tokens], self.k[tokens], self.qkv[tokens])

    @property
    def heads(self) -> Heads:
        """q, k and v; ``v`` is a view: its token stride is that of all heads."""
        return self.q, self.k, self.qkv[:, -self.k.shape[1] :]


def project_heads(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, weights: ExpertWeights) -> Heads:
    """Norm the residual stream and project it to heads: q ``[T, Hq, d]``, k and v ``[T, Hk, d]``, q and k normed and rotated.

    ``x [T, hidden]``, ``cos`` and ``sin`` ``[T, d]``. ``v`` is a view into the fused projection: its token stride is that of all heads.
    """
    if expert_fits(x, weights.qkv_weight, weights.q_norm, (cos, sin)) and (native := native_kernels()) is not None:
        room = HeadRoom.of_tokens(len(x), x, weights)
        native.project_heads(x, (cos, sin), weights, (room.q, room.k, room.qkv))
        return room.heads
    return _compose_heads(x, cos, sin, weights)


def project_heads_into(room: HeadRoom, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, weights: ExpertWeights) -> None:
    """Do the same into ``room``, which has as many tokens. Not differentiable."""
    if expert_fits(x, weights.qkv_weight, weights.q_norm, (cos, sin)) and (native := native_kernels()) is not None:
        native.project_heads(x, (cos, sin), weights, (room.q, room.k, room.qkv))
        return
    for place, heads in zip(room.heads, _compose_heads(x, cos, sin, weights), strict=True):
        place.copy_(heads)


def _compose_heads(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, weights: ExpertWeights) -> Heads:
    qkv = weights.normed_qkv(x)
    heads = qkv.unflatten(1, (-1, len(weights.q_norm)))
    q, k, v = heads.split([weights.num_heads, weights.num_kv_heads, weights.num_kv_heads], dim=1)
    if not weights.rotates_in_float32 or q.dtype == torch.float32:
        q, k = qk_norm_rope(q, k, weights.q_norm, weights.k_norm, cos, sin, weights.eps)
        return q, k, v
    # The reference rotates generation tokens in float32, understanding tokens in the hidden dtype (spec 9).
    wide = (weights.q_norm.float(), weights.k_norm.float(), cos.float(), sin.float())
    wide_q, wide_k = qk_norm_rope(q.float(), k.float(), *wide, weights.eps)
    return wide_q.to(q.dtype), wide_k.to(k.dtype), v


def project_experts(und: torch.Tensor, gen: torch.Tensor, experts: tuple[ExpertWeights, ExpertWeights]) -> torch.Tensor:
    """Norm and project the tokens of both experts into one matrix: ``[T, Hq + 2 Hk, d]``, understanding tokens first, nothing rotated.

    ``und`` and ``gen`` are ``[.., hidden]``, either of them without tokens. Not differentiable.
    """
    weights = experts[0]
    qkv = torch.empty((len(und) + len(gen), len(weights.qkv_bias)), dtype=und.dtype, device=und.device)
    for x, expert, out in ((und, experts[0], qkv[: len(und)]), (gen, experts[1], qkv[len(und) :])):
        if len(x) and expert.scales is not None:
            out.copy_(expert.normed_qkv(x))
        elif len(x):
            torch.addmm(expert.qkv_bias, rms_norm(x, expert.input_norm, expert.eps), expert.qkv_weight.T, out=out)
    return qkv.view(len(qkv), -1, len(weights.q_norm))


def finish_layer(x: torch.Tensor, attended: torch.Tensor, weights: ExpertWeights) -> torch.Tensor:
    """Add attention's output ``[T, Hq, d]`` and the feed-forward to the residual stream ``x [T, hidden]``; returns a new tensor."""
    if expert_fits(x, weights.qkv_weight, attended, ()) and (native := native_kernels()) is not None:
        out = torch.empty_like(x)
        native.finish_layer(x, attended, weights, out)
        return out
    return weights.finish(x, attended.flatten(1))


def finish_layer_into(out: torch.Tensor, x: torch.Tensor, attended: torch.Tensor, weights: ExpertWeights) -> None:
    """Do the same into contiguous ``out [T, hidden]``. Not differentiable."""
    if expert_fits(x, weights.qkv_weight, attended, ()) and (native := native_kernels()) is not None:
        native.finish_layer(x, attended, weights, out)
    else:
        out.copy_(weights.finish(x, attended.flatten(1)))
