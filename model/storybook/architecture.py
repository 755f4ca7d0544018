"""The storybook model's sizes, its profile file and its fresh weights."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from model.bagel import Bagel
from model.config import BagelConfig
from model.config_reader import PLAIT_FILE
from model.latents import sincos_table
from model.sizes import ImageTransform, LlmConfig, VaeConfig, VitConfig
from model.weight_table import Role, main_table

VAE_TRANSFORM = ImageTransform(max_size=96, min_size=64, stride=32)
"""Pictures are 64 on their short side and at most 96 on their long one."""
VIT_TRANSFORM = ImageTransform(max_size=84, min_size=56, stride=28)
"""7/8 of the picture, so that each patch of 14 pixels sees exactly 16 pixels of it."""
EMBEDDING_SPREAD = 0.5
"""Standard deviation of fresh token embeddings: comparable to the position tables, small against normed activations."""
RESIDUAL_OUTPUTS = ("o_weight", "down_weight", "velocity_weight", "lm_head")
VIT_RESIDUAL_OUTPUTS = ("out_weight", "fc2_weight")
"""Matrices that start at zero: what a layer adds to the residual stream, and the heads."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Widths and depths of the transformer and the ViT."""

    hidden_size: int = 192
    intermediate_size: int = 512
    num_layers: int = 6
    num_heads: int = 6
    num_kv_heads: int = 3
    vit_hidden_size: int = 128
    vit_intermediate_size: int = 320
    vit_num_layers: int = 2
    vit_num_heads: int = 4


def storybook_config(vocab_size: int, vae: VaeConfig, size: ModelSize) -> BagelConfig:
    """Return the configuration; ``vocab_size`` is rounded up to a multiple of 64."""
    built = BagelConfig.build(
        llm=LlmConfig(
            hidden_size=size.hidden_size,
            intermediate_size=size.intermediate_size,
            num_layers=size.num_layers,
            num_heads=size.num_heads,
            num_kv_heads=size.num_kv_heads,
            vocab_size=-(-vocab_size // 64) * 64,
            rope_theta=10_000.0,
            max_positions=4096,
        ),
        vit=VitConfig(
            hidden_size=size.vit_hidden_size,
            intermediate_size=size.vit_intermediate_size,
            num_layers=size.vit_num_layers,
            num_heads=size.vit_num_heads,
            patch_size=14,
            table_side=6,
        ),
        vae=vae,
        latent_patch_size=4,
        latent_table_side=3,
    )
    return replace(built, vae_transform=VAE_TRANSFORM, vit_transform=VIT_TRANSFORM)


@torch.no_grad()
def initialise(model: Bagel, seed: int) -> None:
    """Fill every weight but the VAE's: norms 1, biases 0, matrices so that activations keep their size, residual outputs 0.

    A layer whose output matrices are zero passes its input on unchanged, so that depth does not slow the start.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    for line in main_table(model.config):
        parameter = parameters[line.parameter]
        match line.role:
            case Role.NORM:
                parameter.fill_(1.0)
            case Role.BIAS:
                parameter.zero_()
            case Role.TABLE:
                parameter.copy_(sincos_table(math.isqrt(parameter.shape[0]), parameter.shape[1]))
            case Role.WEIGHT:
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(drawn * _spread(line.parameter, parameter.shape))


def _spread(name: str, shape: torch.Size) -> float:
    """Return the standard deviation of a fresh matrix."""
    if name.endswith(RESIDUAL_OUTPUTS) or (name.startswith("vit.layers") and name.endswith(VIT_RESIDUAL_OUTPUTS)):
        return 0.0
    if name in ("token_embedding", "vit.position_embedding"):
        return EMBEDDING_SPREAD
    return 1.0 / math.sqrt(math.prod(shape[1:]))


def write_profile(directory: Path) -> None:
    """Write ``plait.json``: the model decides when to draw and when to stop, and pictures are small."""
    sampler = {
        "text_scale": 2.0,
        "image_scale": 1.0,
        "interval": [0.0, 1.0],
        "renorm": "global",
        "renorm_min": 0.0,
        "timestep_shift": 2.0,
        "num_timesteps": 21,
    }
    fields = {
        "family": "interleaved",
        "begin_of_image": "after_text_end",
        "after_text_end": "model_decides",
        "after_image": "model_decides",
        "end_token_names": ["<|endoftext|>"],
        "vae_transform": _transform_fields(VAE_TRANSFORM),
        "vit_transform": _transform_fields(VIT_TRANSFORM),
        "defaults": {
            "guidance": "illume",
            "text_to_image": sampler,
            "edit": sampler,
            "image_size": [64, 64],
            "offered_sizes": [[64, 64], [64, 96]],
        },
    }
    (directory / PLAIT_FILE).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def _transform_fields(transform: ImageTransform) -> dict[str, int]:
    return {"max_size": transform.max_size, "min_size": transform.min_size, "stride": transform.stride}
