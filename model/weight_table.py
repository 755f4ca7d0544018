"""The one table between a checkpoint's tensor names and this model's parameters.

Each line says: this stored tensor is these rows of that parameter. Several stored tensors fill one parameter where projections are fused
(``[q; k; v]``, ``[gate; up]``). Loading, saving and making random checkpoints all walk it. Names and shapes: spec sections 1.3 and 1.4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import torch

from model.bagel import TIME_FREQUENCIES
from model.config import BagelConfig
from model.config_reader import LATENT_TABLE, VIT_TABLE
from model.sizes import LlmConfig, VaeConfig, VitConfig, WeightCounts
from model.vae import Vae


class Role(Enum):
    """What a tensor is, for whoever invents or computes its values."""

    WEIGHT = "weight"
    BIAS = "bias"
    NORM = "norm"
    TABLE = "table"
    """A computable sin-cos position table: the only kind a checkpoint may lack."""


@dataclass(frozen=True, slots=True)
class TableLine:
    """The stored tensor ``name`` of ``shape`` is rows ``first_row`` and following of the parameter ``parameter``."""

    name: str
    parameter: str
    shape: tuple[int, ...]
    role: Role = Role.WEIGHT
    first_row: int = 0


EXPERT_MATRICES = ("qkv_weight", "o_weight", "gate_up_weight", "down_weight")


def is_expert_matrix(parameter: str) -> bool:
    """Tell whether a parameter is one of the large matrices of an expert."""
    return parameter.startswith("layers.") and parameter.endswith(EXPERT_MATRICES)


def count_weights(config: BagelConfig) -> WeightCounts:
    """Count the numbers in the tables of a configuration."""
    lines = main_table(config)
    matrices = [line.shape for line in lines if is_expert_matrix(line.parameter)]
    rest = sum(math.prod(line.shape) for line in lines if not is_expert_matrix(line.parameter))
    vae = sum(math.prod(line.shape) for line in vae_table(config.vae))
    return WeightCounts(sum(map(math.prod, matrices)), sum(shape[0] for shape in matrices), vae, rest)


def main_table(config: BagelConfig) -> list[TableLine]:
    """Return every tensor of ``ema.safetensors`` for this configuration."""
    llm, hidden = config.llm, config.llm.hidden_size
    lines = [
        TableLine("language_model.model.embed_tokens.weight", "token_embedding", (llm.vocab_size, hidden)),
        TableLine("language_model.lm_head.weight", "lm_head", (llm.vocab_size, hidden)),
        TableLine("language_model.model.norm.weight", "und_norm", (hidden,), Role.NORM),
        TableLine("language_model.model.norm_moe_gen.weight", "gen_norm", (hidden,), Role.NORM),
    ]
    for layer in range(llm.num_layers):
        stored = f"language_model.model.layers.{layer}."
        lines += _expert(llm, stored, f"layers.{layer}.und.", "")
        lines += _expert(llm, stored, f"layers.{layer}.gen.", "_moe_gen")
    lines += _generation_side(config)
    lines += _vit(config.vit)
    lines += _linear("connector.fc1", "connector.fc1", hidden, config.vit.hidden_size)
    lines += _linear("connector.fc2", "connector.fc2", hidden, hidden)
    lines.append(TableLine(VIT_TABLE, "vit_positions", (config.vit.table_side**2, hidden), Role.TABLE))
    return lines


def vae_table(config: VaeConfig) -> list[TableLine]:
    """Return every tensor of ``ae.safetensors``: the names are the module's own."""
    with torch.device("meta"):
        vae = Vae(config)
    return [TableLine(name, f"vae.{name}", tuple(values.shape), _vae_role(name)) for name, values in vae.named_parameters()]


def _expert(llm: LlmConfig, stored: str, parameter: str, suffix: str) -> Iterator[TableLine]:
    hidden, head_dim = llm.hidden_size, llm.head_dim
    q_rows, kv_rows = llm.num_heads * head_dim, llm.num_kv_heads * head_dim
    first_row = 0
    for letter, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
        name = f"{stored}self_attn.{letter}_proj{suffix}"
        yield TableLine(f"{name}.weight", f"{parameter}qkv_weight", (rows, hidden), first_row=first_row)
        yield TableLine(f"{name}.bias", f"{parameter}qkv_bias", (rows,), Role.BIAS, first_row)
        first_row += rows
    yield TableLine(f"{stored}self_attn.o_proj{suffix}.weight", f"{parameter}o_weight", (hidden, q_rows))
    yield TableLine(f"{stored}self_attn.q_norm{suffix}.weight", f"{parameter}q_norm", (head_dim,), Role.NORM)
    yield TableLine(f"{stored}self_attn.k_norm{suffix}.weight", f"{parameter}k_norm", (head_dim,), Role.NORM)
    yield TableLine(f"{stored}input_layernorm{suffix}.weight", f"{parameter}input_norm", (hidden,), Role.NORM)
    yield TableLine(f"{stored}post_attention_layernorm{suffix}.weight", f"{parameter}mlp_norm", (hidden,), Role.NORM)
    wide = llm.intermediate_size
    yield TableLine(f"{stored}mlp{suffix}.gate_proj.weight", f"{parameter}gate_up_weight", (wide, hidden))
    yield TableLine(f"{stored}mlp{suffix}.up_proj.weight", f"{parameter}gate_up_weight", (wide, hidden), first_row=wide)
    yield TableLine(f"{stored}mlp{suffix}.down_proj.weight", f"{parameter}down_weight", (hidden, wide))


def _generation_side(config: BagelConfig) -> Iterator[TableLine]:
    hidden = config.llm.hidden_size
    yield from _linear("time_embedder.mlp.0", "time_embedder.fc1", hidden, 2 * TIME_FREQUENCIES)
    yield from _linear("time_embedder.mlp.2", "time_embedder.fc2", hidden, hidden)
    yield from _linear("vae2llm", "latent_in", hidden, config.latent_dim)
    yield from _linear("llm2vae", "velocity", config.latent_dim, hidden)
    yield TableLine(LATENT_TABLE, "latent_positions", (config.latent_table_side**2, hidden), Role.TABLE)


def _vit(vit: VitConfig) -> Iterator[TableLine]:
    stored, hidden = "vit_model.vision_model.", vit.hidden_size
    yield from _linear(f"{stored}embeddings.patch_embedding", "vit.patch", hidden, vit.patch_dim)
    yield TableLine(f"{stored}embeddings.position_embedding.weight", "vit.position_embedding", (vit.table_side**2, hidden))
    for layer in range(vit.num_layers):
        yield from _vit_layer(vit, f"{stored}encoder.layers.{layer}.", f"vit.layers.{layer}.")
    yield from _layer_norm(f"{stored}post_layernorm", "vit.norm", hidden)


def _vit_layer(vit: VitConfig, stored: str, parameter: str) -> Iterator[TableLine]:
    hidden, wide = vit.hidden_size, vit.intermediate_size
    for index, letter in enumerate("qkv"):
        yield from _linear(f"{stored}self_attn.{letter}_proj", f"{parameter}qkv", hidden, hidden, index * hidden)
    yield from _linear(f"{stored}self_attn.out_proj", f"{parameter}out", hidden, hidden)
    yield from _linear(f"{stored}mlp.fc1", f"{parameter}fc1", wide, hidden)
    yield from _linear(f"{stored}mlp.fc2", f"{parameter}fc2", hidden, wide)
    yield from _layer_norm(f"{stored}layer_norm1", f"{parameter}norm1", hidden)
    yield from _layer_norm(f"{stored}layer_norm2", f"{parameter}norm2", hidden)


def _linear(stored: str, parameter: str, rows: int, columns: int, first_row: int = 0) -> Iterator[TableLine]:
    yield TableLine(f"{stored}.weight", f"{parameter}_weight", (rows, columns), first_row=first_row)
    yield TableLine(f"{stored}.bias", f"{parameter}_bias", (rows,), Role.BIAS, first_row)


def _layer_norm(stored: str, parameter: str, width: int) -> Iterator[TableLine]:
    yield TableLine(f"{stored}.weight", f"{parameter}_weight", (width,), Role.NORM)
    yield TableLine(f"{stored}.bias", f"{parameter}_bias", (width,), Role.BIAS)


def _vae_role(name: str) -> Role:
    if name.endswith(".bias"):
        return Role.BIAS
    return Role.NORM if "norm" in name else Role.WEIGHT
