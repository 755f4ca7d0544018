"""How large keys and values can become, by the weights alone: it places the point of 8-bit pages (`kernels.kv_pages`).

A row of n numbers that has been divided by its root mean square is sqrt(n) long. So a key, normed over its d numbers, weighted, and turned
in pairs, holds none larger than sqrt(d) max |w|; and a value, b + W (g x) of a normed x, none larger than sqrt(n) |g W_j| + |b_j| in row j
(Cauchy and Schwarz). What is met is some ten to fifty times smaller, which is as good to an 8-bit float: down to 1/28,000 of the largest
it is rounded no worse.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from kernels.kv_pages import KvScales, scale_up_to
from model.transformer import Expert, MotLayer


def kv_scales(layers: Iterable[MotLayer]) -> list[KvScales]:
    """Return for each layer the least scales with which no key and no value of either expert is cut off."""
    return [_scales_of((layer.und, layer.gen)) for layer in layers]


def _scales_of(experts: tuple[Expert, ...]) -> KvScales:
    k = max(largest_key(expert) for expert in experts)
    v = max(largest_value(expert) for expert in experts)
    return KvScales(scale_up_to(k), scale_up_to(v))


def largest_key(expert: Expert) -> float:
    """Bound the numbers of a normed and rotated key."""
    return math.sqrt(len(expert.k_norm)) * float(expert.k_norm.detach().float().abs().max())


def largest_value(expert: Expert) -> float:
    """Bound the numbers of a value."""
    num_rows = expert.num_kv_heads * len(expert.k_norm)
    weight, bias = expert.qkv_weight.detach()[-num_rows:].float(), expert.qkv_bias.detach()[-num_rows:].float()
    if expert.scales is not None:
        weight = weight * expert.scales.qkv[-num_rows:, None]
    lengths = torch.linalg.vector_norm(weight * expert.input_norm.detach().float(), dim=1)
    return float((math.sqrt(weight.shape[1]) * lengths + bias.abs()).max())
