"""The sizes of each tower of a BAGEL-layout model, and the bounds of its image resizes.

Plain numbers with their invariants; `model.config` puts them together and `model.config_reader` reads them from a model directory.
Spec sections: 1.2 (language model, ViT), 3.3 (image transforms), 4.1 (VAE). Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

RESBLOCK_GROUPS = 32
"""Groups of every group norm in the VAE: its widths are multiples of it."""


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """Bounds of a resize in pixels: longest side, shortest side, and the multiple both sides become (spec 3.3)."""

    max_size: int
    min_size: int
    stride: int

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.min_size <= self.max_size or self.max_size % self.stride:
            raise ValueError(f"{self}: needs 0 < stride <= min_size <= max_size and max_size a multiple of stride")


@dataclass(frozen=True, slots=True)
class LlmConfig:
    """The Qwen2 backbone; both experts have these sizes."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    max_positions: int = 32768

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_heads) or self.hidden_size % 4:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of 4 and of twice num_attention_heads {self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_attention_heads {self.num_heads} must be a multiple of num_key_value_heads {self.num_kv_heads}")

    @property
    def head_dim(self) -> int:
        """Always hidden size / heads: a separate ``head_dim`` field is not read (spec 1.2)."""
        return self.hidden_size // self.num_heads

    @property
    def qkv_rows(self) -> int:
        """Rows of the fused ``[q; k; v]`` projection."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


@dataclass(frozen=True, slots=True)
class VitConfig:
    """The SigLIP encoder; ``num_layers`` counts the layers that exist, ``table_side`` is N of the spec."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    patch_size: int
    table_side: int
    num_channels: int = 3
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"ViT hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_heads}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_dim(self) -> int:
        """Values of one patch, channel fastest."""
        return self.patch_size * self.patch_size * self.num_channels


@dataclass(frozen=True, slots=True)
class VaeConfig:
    """The FLUX autoencoder (spec 4.1)."""

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 16
    in_channels: int = 3
    out_ch: int = 3
    scale_factor: float = 0.3611
    shift_factor: float = 0.1159

    def __post_init__(self) -> None:
        if self.ch % RESBLOCK_GROUPS:
            raise ValueError(f"VAE width ch {self.ch} must be a multiple of {RESBLOCK_GROUPS}")
        if min(self.ch, *self.ch_mult, self.num_res_blocks, self.z_channels) < 1:
            raise ValueError(
                f"VAE widths must be positive: ch {self.ch}, ch_mult {self.ch_mult}, "
                f"num_res_blocks {self.num_res_blocks}, z_channels {self.z_channels}"
            )
        if self.scale_factor == 0:
            raise ValueError("VAE scale_factor must not be 0")

    @property
    def downsample(self) -> int:
        """Pixels per latent cell side."""
        return 1 << (len(self.ch_mult) - 1)


VAE_ELEMENT_BYTES = 4
"""The VAE is always float32."""
SCALE_BYTES = 4


@dataclass(frozen=True, slots=True)
class WeightCounts:
    """How many numbers a model's weights are.

    Attributes:
        matrices: in the experts' large matrices, which may be kept as 8-bit floats; channels: rows of these, each with a scale then.
        vae: in the VAE; rest: everywhere else.
    """

    matrices: int
    channels: int
    vae: int
    rest: int

    @property
    def total(self) -> int:
        """All numbers but the scales."""
        return self.matrices + self.vae + self.rest

    def num_bytes(self, element_bytes: int, *, has_fp8_experts: bool = False) -> int:
        """Return what they take on a device, in the number format of ``element_bytes``, the experts in 8-bit floats if so wished."""
        matrices = self.matrices + SCALE_BYTES * self.channels if has_fp8_experts else self.matrices * element_bytes
        return matrices + self.vae * VAE_ELEMENT_BYTES + self.rest * element_bytes
