"""Useful work of a step: floating-point operations of a denoise step and bytes read by a decoded token, from the model's sizes.

Only what the mathematics needs is counted: no padding, no branch that was not asked for, a multiply-add as two operations.
"""

from __future__ import annotations

from model.config import BagelConfig

NUM_MARKERS = 2


def expert_weights(config: BagelConfig) -> int:
    """Count the matrix weights of one expert in one layer."""
    llm = config.llm
    return llm.hidden_size * (llm.qkv_rows + llm.num_heads * llm.head_dim + 3 * llm.intermediate_size)


def denoise_flops(config: BagelConfig, num_latents: int, kv_lens: list[int]) -> float:
    """Count the operations of one denoise step: a row of ``num_latents`` + 2 tokens over each context of ``kv_lens`` rows."""
    llm = config.llm
    num_tokens = num_latents + NUM_MARKERS
    projections = 2.0 * num_tokens * expert_weights(config) * llm.num_layers
    heads = 2.0 * num_latents * config.latent_dim * llm.hidden_size * 2
    attention = sum(4.0 * num_tokens * (num_tokens + kv_len) * llm.num_heads * llm.head_dim * llm.num_layers for kv_len in kv_lens)
    return len(kv_lens) * (projections + heads) + attention


def decode_bytes(config: BagelConfig, kv_len: int, itemsize: int) -> float:
    """Count the bytes one decoded token must read: the understanding expert, the output head, its keys and values."""
    llm = config.llm
    weights = expert_weights(config) * llm.num_layers + llm.hidden_size * llm.vocab_size
    cache = 2 * llm.num_layers * kv_len * llm.num_kv_heads * llm.head_dim
    return float(itemsize * (weights + cache))
