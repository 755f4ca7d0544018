"""Writing a configuration as the JSON files `model.config_reader` reads, for checkpoints this project makes. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from model.config import BagelConfig
from model.config_reader import MISSING_VIT_LAYERS


def write_config(directory: Path, config: BagelConfig) -> None:
    """Write ``llm_config.json``, ``vit_config.json`` and ``config.json`` into ``directory``; transforms that differ from the implied ones
    belong in ``plait.json`` and are not written.
    """
    _write(directory / "llm_config.json", _llm_fields(config))
    _write(directory / "vit_config.json", _vit_fields(config))
    _write(directory / "config.json", _constant_fields(config))


def _llm_fields(config: BagelConfig) -> dict[str, object]:
    llm = config.llm
    return {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": llm.hidden_size,
        "intermediate_size": llm.intermediate_size,
        "num_hidden_layers": llm.num_layers,
        "num_attention_heads": llm.num_heads,
        "num_key_value_heads": llm.num_kv_heads,
        "vocab_size": llm.vocab_size,
        "rms_norm_eps": llm.rms_norm_eps,
        "rope_theta": llm.rope_theta,
        "max_position_embeddings": llm.max_positions,
        "tie_word_embeddings": False,
    }


def _vit_fields(config: BagelConfig) -> dict[str, object]:
    vit = config.vit
    return {
        "model_type": "siglip_vision_model",
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": vit.hidden_size,
        "intermediate_size": vit.intermediate_size,
        "num_hidden_layers": vit.num_layers + MISSING_VIT_LAYERS,
        "num_attention_heads": vit.num_heads,
        "image_size": vit.table_side * vit.patch_size,
        "patch_size": vit.patch_size,
        "num_channels": vit.num_channels,
        "layer_norm_eps": vit.layer_norm_eps,
    }


def _constant_fields(config: BagelConfig) -> dict[str, object]:
    return {
        "model_type": "bagel",
        "latent_patch_size": config.latent_patch_size,
        "max_latent_size": config.latent_table_side,
        "vit_max_num_patch_per_side": config.vit.table_side,
        "connector_act": "gelu_pytorch_tanh",
        "interpolate_pos": False,
        "vae_config": {**asdict(config.vae), "downsample": config.vae.downsample},
    }


def _write(path: Path, fields: dict[str, object]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
