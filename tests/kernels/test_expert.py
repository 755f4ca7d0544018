"""The fused expert ops against their composition from the reference ops, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels import reference
from kernels.expert import ExpertWeights, finish_layer, project_heads

EPS = 1e-6


def random_weights(hidden: int, wide: int, heads: tuple[int, int], head_dim: int) -> ExpertWeights:
    generator = torch.Generator().manual_seed(hidden + wide)

    def draw(*shape: int) -> torch.Tensor:
        values: torch.Tensor = torch.randn(*shape, generator=generator, dtype=torch.float64) / shape[-1] ** 0.5
        return values

    num_heads, num_kv_heads = heads
    rows = (num_heads + 2 * num_kv_heads) * head_dim
    return ExpertWeights(
        input_norm=1 + draw(hidden),
        qkv_weight=draw(rows, hidden),
        qkv_bias=draw(rows),
        q_norm=1 + draw(head_dim),
        k_norm=1 + draw(head_dim),
        o_weight=draw(hidden, num_heads * head_dim),
        mlp_norm=1 + draw(hidden),
        gate_up_weight=draw(2 * wide, hidden),
        down_weight=draw(hidden, wide),
        eps=EPS,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        rotates_in_float32=False,
    )


def single(weights: ExpertWeights) -> ExpertWeights:
    """Return the weights in float32."""
    return replace(
        weights,
        input_norm=weights.input_norm.float(),
        qkv_weight=weights.qkv_weight.float(),
        qkv_bias=weights.qkv_bias.float(),
        q_norm=weights.q_norm.float(),
        k_norm=weights.k_norm.float(),
        o_weight=weights.o_weight.float(),
        mlp_norm=weights.mlp_norm.float(),
        gate_up_weight=weights.gate_up_weight.float(),
        down_weight=weights.down_weight.float(),
    )


def projected(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, w: ExpertWeights) -> tuple[torch.Tensor, ...]:
    qkv = reference.rms_norm(x, w.input_norm, EPS) @ w.qkv_weight.T + w.qkv_bias
    q, k, v = qkv.unflatten(1, (-1, len(w.q_norm))).split([w.num_heads, w.num_kv_heads, w.num_kv_heads], dim=1)
    return *reference.qk_norm_rope(q, k, w.q_norm, w.k_norm, cos, sin, eps=EPS), v


def finished(x: torch.Tensor, attended: torch.Tensor, w: ExpertWeights) -> torch.Tensor:
    h = x + attended.flatten(1) @ w.o_weight.T
    return h + reference.silu_mul(reference.rms_norm(h, w.mlp_norm, EPS) @ w.gate_up_weight.T) @ w.down_weight.T


SIZES = [(64, 160, (4, 2), 16), (96, 72, (3, 3), 32), (56, 40, (7, 1), 8), (512, 1536, (8, 2), 64)]


@pytest.mark.parametrize("records_gradients", [False, True], ids=["native", "torch"])
@pytest.mark.parametrize("num_tokens", [1, 2, 7, 24, 25, 60])
@pytest.mark.parametrize(("hidden", "wide", "heads", "head_dim"), SIZES)
def test_an_experts_part_of_a_layer(
    hidden: int, wide: int, heads: tuple[int, int], head_dim: int, num_tokens: int, records_gradients: bool
) -> None:
    weights = random_weights(hidden, wide, heads, head_dim)
    x, angles = torch.randn(num_tokens, hidden, dtype=torch.float64), torch.randn(num_tokens, head_dim, dtype=torch.float64)
    attended = torch.randn(num_tokens, heads[0], head_dim, dtype=torch.float64)
    cos, sin = angles.cos(), angles.sin()

    with torch.set_grad_enabled(records_gradients):
        found = project_heads(x.float(), cos.float(), sin.float(), single(weights))
        result = finish_layer(x.float(), attended.float(), single(weights))

    # Float32 sums of up to 1,536 products of size about 1/sqrt(n): a few 1e-6.
    for part, expected in zip(found, projected(x, cos, sin, weights), strict=True):
        torch.testing.assert_close(part.double(), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(result.double(), finished(x, attended, weights), rtol=0, atol=2e-5)
