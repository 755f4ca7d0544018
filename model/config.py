"""The configuration of a BAGEL-layout model, and three named sizes to build without a checkpoint.

`BagelConfig.from_directory` reads them from a model directory (see `model.config_reader` for the rules). Imports no torch: the API
process reads the same configuration as the engine. Spec sections: 1.2 (JSON fields), 3.3 (image transforms), 4.1 (VAE).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from model.config_reader import PLAIT_FILE, read_parts
from model.errors import CheckpointError
from model.sizes import ImageTransform, LlmConfig, VaeConfig, VitConfig

__all__ = ["BagelConfig", "ImageTransform", "LlmConfig", "VaeConfig", "VitConfig"]

SMALLEST_VAE_SIDE = 512
"""Least pixels on a picture's short side before the VAE (spec 3.3), where the latent table allows as much."""

REAL_VIT_MIN, REAL_VIT_MAX = 224, 980
"""Bounds of the released model's ViT transform; a smaller ViT keeps their ratio."""


@dataclass(frozen=True, slots=True)
class BagelConfig:
    """Everything that fixes the shapes of a model, and the resizes its pictures go through.

    Attributes:
        latent_patch_size: p, latent cells per token side.
        latent_table_side: M, tokens per side of the latent position table; bounds the largest picture.
    """

    llm: LlmConfig
    vit: VitConfig
    vae: VaeConfig
    latent_patch_size: int
    latent_table_side: int
    vae_transform: ImageTransform
    vit_transform: ImageTransform

    @classmethod
    def build(cls, llm: LlmConfig, vit: VitConfig, vae: VaeConfig, latent_patch_size: int, latent_table_side: int) -> BagelConfig:
        """Complete a configuration with the image transforms its tables imply."""
        latent_stride = vae.downsample * latent_patch_size
        return cls(
            llm=llm,
            vit=vit,
            vae=vae,
            latent_patch_size=latent_patch_size,
            latent_table_side=latent_table_side,
            vae_transform=implied_vae_transform(latent_table_side, latent_stride),
            vit_transform=implied_vit_transform(vit.table_side, vit.patch_size),
        )

    @classmethod
    def from_directory(cls, path: str | Path) -> BagelConfig:
        """Read the configuration of the model directory ``path``.

        Raises:
            CheckpointError: a file is missing, a field has a wrong value, or the model needs something this code does not do.
        """
        directory = Path(path)
        parts = read_parts(directory)
        implied = cls.build(parts.llm, parts.vit, parts.vae, parts.latent_patch_size, parts.latent_table_side)
        return replace(
            implied,
            vae_transform=_placeable(directory, "vae_transform", parts.vae_transform, implied.vae_transform),
            vit_transform=_placeable(directory, "vit_transform", parts.vit_transform, implied.vit_transform),
        )

    @classmethod
    def named(cls, name: str) -> BagelConfig:
        """Return the size called ``tiny``, ``mid`` or ``bagel-7b``.

        Raises:
            ValueError: no such size.
        """
        sizes = {"tiny": _tiny, "mid": _mid, "bagel-7b": _bagel_7b}
        if name not in sizes:
            raise ValueError(f"no model size is called {name!r}; known are {', '.join(sizes)}")
        return sizes[name]()

    @property
    def latent_stride(self) -> int:
        """Pixels per latent token side (16 in the released model)."""
        return self.vae.downsample * self.latent_patch_size

    @property
    def latent_dim(self) -> int:
        """Values of one latent token: p * p * C."""
        return self.latent_patch_size**2 * self.vae.z_channels

    @property
    def num_layers(self) -> int:
        return self.llm.num_layers


def _placeable(directory: Path, field: str, stated: ImageTransform | None, implied: ImageTransform) -> ImageTransform:
    """Return what ``plait.json`` states, else what the tables imply: the largest side and the stride of that bound what is stated."""
    if stated is None:
        return implied
    if stated.max_size > implied.max_size or stated.stride % implied.stride:
        bounds = f"max_size up to {implied.max_size} and a multiple of {implied.stride} as stride"
        raise CheckpointError.in_file(directory / PLAIT_FILE, f"field {field!r}: expected {bounds}, found {stated}")
    return stated


def implied_vae_transform(table_side: int, latent_stride: int) -> ImageTransform:
    """Derive the VAE resize from the latent table: as large as the table, as small as the released model or half of that."""
    half = table_side // 2 * latent_stride
    smallest = SMALLEST_VAE_SIDE // latent_stride * latent_stride
    return ImageTransform(table_side * latent_stride, max(latent_stride, min(smallest, half)), latent_stride)


def implied_vit_transform(table_side: int, patch_size: int) -> ImageTransform:
    """Derive the ViT resize from its table, with the released model's ratio of smallest to largest side."""
    max_size = table_side * patch_size
    min_size = round(REAL_VIT_MIN * max_size / REAL_VIT_MAX / patch_size) * patch_size
    return ImageTransform(max_size, max(patch_size, min_size), patch_size)


def _tiny() -> BagelConfig:
    """Tests: every structure of the real model, a few hundred thousand weights."""
    return BagelConfig.build(
        llm=LlmConfig(hidden_size=64, intermediate_size=160, num_layers=3, num_heads=4, num_kv_heads=2, vocab_size=320),
        vit=VitConfig(hidden_size=48, intermediate_size=80, num_layers=2, num_heads=2, patch_size=14, table_side=10),
        vae=VaeConfig(ch=32, ch_mult=(1, 2, 1, 1), num_res_blocks=1),
        latent_patch_size=2,
        latent_table_side=8,
    )


def _mid() -> BagelConfig:
    """Measurements on a CPU: weights larger than its caches, pictures up to 512 pixels."""
    return BagelConfig.build(
        llm=LlmConfig(hidden_size=512, intermediate_size=1536, num_layers=8, num_heads=8, num_kv_heads=2, vocab_size=8192),
        vit=VitConfig(hidden_size=192, intermediate_size=512, num_layers=4, num_heads=3, patch_size=14, table_side=24),
        vae=VaeConfig(ch=32, ch_mult=(1, 2, 2, 2), num_res_blocks=1),
        latent_patch_size=2,
        latent_table_side=32,
    )


def _bagel_7b() -> BagelConfig:
    """BAGEL-7B-MoT as released (spec 1.2)."""
    return BagelConfig.build(
        llm=LlmConfig(hidden_size=3584, intermediate_size=18944, num_layers=28, num_heads=28, num_kv_heads=4, vocab_size=152064),
        vit=VitConfig(hidden_size=1152, intermediate_size=4304, num_layers=26, num_heads=16, patch_size=14, table_side=70),
        vae=VaeConfig(),
        latent_patch_size=2,
        latent_table_side=64,
    )
