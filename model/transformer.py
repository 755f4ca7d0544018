"""One layer of the mixture of two transformers: shared attention between an understanding and a generation expert.

Tokens come split by expert, so that every projection is one plain matrix product; only attention sees them together, in packed order
``[und | gen]``. Who may see whom is the caller's affair (`Attend`). Spec section 2.
BAGEL: modeling/bagel/qwen2_navit.py:Qwen2MoTDecoderLayer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kernels.expert import (
    ExpertScales,
    ExpertWeights,
    HeadRoom,
    Heads,
    finish_layer,
    finish_layer_into,
    project_experts,
    project_heads,
    project_heads_into,
)
from kernels.expert_layers import ExpertStack
from kernels.head_norms import ExpertHeads, HeadNorms
from kernels.quantize import quantize_rows
from model.sizes import LlmConfig
from model.stepwise import UNCUT, Cut, Steps, blocks_of, run_through

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""``(layer_index, q[T, Hq, d], k[T, Hk, d], v[T, Hk, d]) -> [T, Hq, d]``; q and k normed and rotated, tokens in packed order."""


@runtime_checkable
class AttendsStacks(Protocol):
    """An `Attend` that may also run all layers of one expert by itself, where it knows a faster way."""

    def run_layers(self, stack: ExpertStack, x: Tensor, rotation: Rotation) -> Tensor | None:
        """Return the residual stream ``[T, hidden]`` after the last layer and the norm behind it, or None to be called layer by layer."""
        ...


@runtime_checkable
class AttendsProjections(Protocol):
    """An `Attend` that may also take the projections of both experts as they are, and norm, rotate and keep them in one go."""

    takes_projections: bool
    """Whether it wants them so; otherwise it is called as any `Attend`."""

    def attend_projections(self, layer_index: int, qkv: Tensor, experts: ExpertHeads, rotation: Rotation) -> Tensor:
        """Attend ``qkv[T, Hq + 2 Hk, d]``, which is overwritten, and return ``[T, Hq, d]``."""
        ...


@runtime_checkable
class AttendsInParts(Protocol):
    """An `Attend` that can also be left between parts of its work."""

    def attend_in_parts(self, layer_index: int, q: Tensor, k: Tensor, v: Tensor, most_parts: int) -> Steps[Tensor]:
        """Do what calling it does, interruptible between up to ``most_parts`` parts of its work."""
        ...


@dataclass(frozen=True, slots=True)
class Streams:
    """The residual stream ``[num_tokens, hidden]`` of each expert, either of which may have no tokens."""

    und: Tensor
    gen: Tensor

    @classmethod
    def split(cls, packed: Tensor, num_und: int) -> Streams:
        """Return the streams of packed tokens, of which the first ``num_und`` are the understanding expert's."""
        return cls(packed[:num_und], packed[num_und:])

    def packed(self) -> Tensor:
        """Return both in packed order, without a copy where one is empty."""
        return _join(self.und, self.gen)


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines ``[num_tokens, head_dim]`` of the tokens' rotary angles, in packed order and the hidden dtype."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def at(cls, positions: Tensor, config: LlmConfig, dtype: torch.dtype) -> Rotation:
        """Compute for int64 ``positions [num_tokens]``; angles in float32, both halves alike (spec 2.1)."""
        angles = positions[:, None].float() * inverse_frequencies(config.head_dim, config.rope_theta, positions.device)
        both_halves = torch.cat([angles, angles], dim=1)
        return cls(both_halves.cos().to(dtype), both_halves.sin().to(dtype))

    def split(self, num_und: int) -> Rotations:
        """Return the rotations of all tokens, of the first ``num_und``, and of the others."""
        und, gen = Rotation(self.cos[:num_und], self.sin[:num_und]), Rotation(self.cos[num_und:], self.sin[num_und:])
        return Rotations(self, und, gen)


@dataclass(frozen=True, slots=True)
class Rotations:
    """The rotation of every token, and of each expert's."""

    every: Rotation
    und: Rotation
    gen: Rotation


@cache
def inverse_frequencies(head_dim: int, rope_theta: float, device: torch.device) -> Tensor:
    """Return RoPE's frequencies ``theta^(-2i/d)``, float32 ``[head_dim / 2]``; computed once, they are not stored in checkpoints."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    return 1.0 / rope_theta**exponents


class MotLayer(nn.Module):
    """Both experts of one layer."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.und = Expert(config, rotates_in_float32=False)
        self.gen = Expert(config, rotates_in_float32=True)

    def forward(self, layer_index: int, streams: Streams, rotations: Rotations, attend: Attend) -> Streams:
        """Run the layer; an expert without tokens is not touched."""
        num_und = len(streams.und)
        attended = self._attend(layer_index, streams, rotations, attend)
        und = self.und.finish(streams.und, attended[:num_und]) if num_und else streams.und
        return Streams(und, self.gen.finish(streams.gen, attended[num_und:]) if len(streams.gen) else streams.gen)

    def forward_in_steps(self, layer_index: int, streams: Streams, rotations: Rotations, attend: Attend, cut: Cut) -> Steps[Streams]:
        """Do the same, interruptible between the blocks of ``cut`` and in attention."""
        num_und = len(streams.und)
        attended = yield from self._attend_in_steps(layer_index, streams, rotations, attend, cut)
        und = yield from self.und.finish_in_steps(streams.und, attended[:num_und], cut)
        gen = yield from self.gen.finish_in_steps(streams.gen, attended[num_und:], cut)
        return Streams(und, gen)

    def _attend(self, layer_index: int, streams: Streams, rotations: Rotations, attend: Attend) -> Tensor:
        if isinstance(attend, AttendsProjections) and attend.takes_projections:
            qkv = project_experts(streams.und, streams.gen, (self.und.weights, self.gen.weights))
            experts = ExpertHeads(self.und.norms, self.gen.norms, len(streams.und), self.und.eps)
            return attend.attend_projections(layer_index, qkv, experts, rotations.every)
        return attend(layer_index, *self._project(streams, rotations))

    def _attend_in_steps(self, layer_index: int, streams: Streams, rotations: Rotations, attend: Attend, cut: Cut) -> Steps[Tensor]:
        if isinstance(attend, AttendsProjections) and attend.takes_projections:
            return self._attend(layer_index, streams, rotations, attend)
        heads = yield from self._project_in_steps(streams, rotations, cut)
        yield
        if isinstance(attend, AttendsInParts):
            return (yield from attend.attend_in_parts(layer_index, *heads, cut.num_bits))
        return attend(layer_index, *heads)

    def _project(self, streams: Streams, rotations: Rotations) -> Heads:
        if not torch.is_grad_enabled():
            return run_through(self._project_in_steps(streams, rotations, UNCUT))
        q_und, k_und, v_und = self.und.project(streams.und, rotations.und)
        q_gen, k_gen, v_gen = self.gen.project(streams.gen, rotations.gen)
        return torch.cat([q_und, q_gen]), torch.cat([k_und, k_gen]), torch.cat([v_und, v_gen])

    def _project_in_steps(self, streams: Streams, rotations: Rotations, cut: Cut) -> Steps[Heads]:
        """Project the tokens of both experts into one place, interruptible between blocks."""
        num_und = len(streams.und)
        room = HeadRoom.of_tokens(num_und + len(streams.gen), streams.und, self.und.weights)
        yield from self.und.project_in_steps(room.part(slice(num_und)), streams.und, rotations.und, cut)
        yield from self.gen.project_in_steps(room.part(slice(num_und, None)), streams.gen, rotations.gen, cut)
        return room.heads


class Expert(nn.Module):
    """The weights one expert has in one layer; ``qkv`` is ``[q; k; v]`` and ``gate_up`` is ``[gate; up]`` by rows."""

    def __init__(self, config: LlmConfig, rotates_in_float32: bool) -> None:
        super().__init__()
        hidden, wide, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
        self.eps = config.rms_norm_eps
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.rotates_in_float32 = rotates_in_float32
        self.input_norm = nn.Parameter(torch.empty(hidden))
        self.qkv_weight = nn.Parameter(torch.empty(config.qkv_rows, hidden))
        self.qkv_bias = nn.Parameter(torch.empty(config.qkv_rows))
        self.q_norm = nn.Parameter(torch.empty(head_dim))
        self.k_norm = nn.Parameter(torch.empty(head_dim))
        self.o_weight = nn.Parameter(torch.empty(hidden, config.num_heads * head_dim))
        self.mlp_norm = nn.Parameter(torch.empty(hidden))
        self.gate_up_weight = nn.Parameter(torch.empty(2 * wide, hidden))
        self.down_weight = nn.Parameter(torch.empty(hidden, wide))
        self.scales: ExpertScales | None = None
        """Set where the four matrices are 8-bit floats, before the first pass."""

    @property
    def matrices(self) -> tuple[nn.Parameter, ...]:
        """The four large ones, in the order of `ExpertScales`."""
        return self.qkv_weight, self.o_weight, self.gate_up_weight, self.down_weight

    def round_matrices(self) -> None:
        """Make 8-bit floats of the four large matrices, one after the other, before the first pass."""
        scales = []
        for matrix in self.matrices:
            rows = quantize_rows(matrix.detach())
            matrix.data = rows.values
            scales.append(rows.scales)
        self.scales = ExpertScales(*scales)

    @cached_property
    def weights(self) -> ExpertWeights:
        """The parameters as the fused ops take them; the parameter objects stay the same for the module's life."""
        return ExpertWeights(
            self.input_norm, self.qkv_weight, self.qkv_bias, self.q_norm, self.k_norm, self.o_weight, self.mlp_norm,
            self.gate_up_weight, self.down_weight, self.eps, self.num_heads, self.num_kv_heads, self.rotates_in_float32, self.scales,
        )  # fmt: skip

    @cached_property
    def norms(self) -> HeadNorms:
        """What happens to this expert's heads."""
        return HeadNorms(self.q_norm, self.k_norm, self.rotates_in_float32)

    def project(self, x: Tensor, rotation: Rotation) -> Heads:
        """Return q ``[T, Hq, d]``, k and v ``[T, Hk, d]`` of the normed input; q and k normed and rotated."""
        return project_heads(x, rotation.cos, rotation.sin, self.weights)

    def project_in_steps(self, room: HeadRoom, x: Tensor, rotation: Rotation, cut: Cut) -> Steps[None]:
        """Do the same into ``room``, interruptible between blocks of tokens. Not differentiable."""
        for block in blocks_of(len(x), cut.num_projected):
            if block.start:
                yield
            project_heads_into(room.part(block), x[block], rotation.cos[block], rotation.sin[block], self.weights)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add attention's output ``[T, Hq, d]`` and the feed-forward to the residual stream ``x [T, hidden]``."""
        return finish_layer(x, attended, self.weights)

    def finish_in_steps(self, x: Tensor, attended: Tensor, cut: Cut) -> Steps[Tensor]:
        """Do the same, interruptible before each block of tokens. Not differentiable."""
        finished = torch.empty_like(x)
        for block in blocks_of(len(x), cut.num_finished):
            yield
            finish_layer_into(finished[block], x[block], attended[block], self.weights)
        return finished


def _join(und: Tensor, gen: Tensor) -> Tensor:
    if len(gen) == 0:
        return und
    return gen if len(und) == 0 else torch.cat([und, gen])
