"""One layer's keys and values in pages, as numbers of the batch's own format or as 8-bit floats (e4m3) with a scale.

An 8-bit float has an exponent of its own: over 15 binades below the largest it is rounded by one part in 16 at most, wherever in them it
lies. A scale must only keep the largest representable. One for all keys of a layer and one for all its values follow from the weights
(`model.kv_scales`), so that no key or value is ever cut off, a token's numbers do not depend on who shares the batch, pages need no room
beside them, and attention multiplies by them once. A scale for each token and head would make attention's error 3.0 % instead of 3.6 %
(`python -m loadtests.fidelity.pages`). Scales are powers of two: they move a point and round nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from kernels.fp8 import FP8, MAX_FP8, MIN_SCALE


@dataclass(frozen=True, slots=True)
class KvScales:
    """What a 1 in 8-bit pages stands for, among keys and among values; powers of two."""

    k: float
    v: float


UNSCALED = KvScales(1.0, 1.0)


def scale_up_to(bound: float) -> float:
    """Return the least power of two with which no number up to ``bound`` is cut off."""
    return 2.0 ** math.ceil(math.log2(max(bound, MIN_SCALE) / MAX_FP8))


@dataclass(frozen=True, slots=True)
class KvPages:
    """Keys and values of one layer, ``[P, page, Hk, d]`` each; a page is contiguous. ``scales`` are those of 8-bit floats, else 1."""

    k: torch.Tensor
    v: torch.Tensor
    scales: KvScales = UNSCALED

    @property
    def is_fp8(self) -> bool:
        return self.k.dtype is FP8

    @property
    def page_size(self) -> int:
        return self.k.shape[1]

    @property
    def num_kv_heads(self) -> int:
        return self.k.shape[2]


def rounded_to(dtype: torch.dtype, x: torch.Tensor, scale: float) -> torch.Tensor:
    """Return ``x`` as pages of ``dtype`` hold it; what is not finite stays not finite."""
    if dtype is not FP8:
        return x.to(dtype)
    scaled = x.to(torch.promote_types(x.dtype, torch.float32)) / scale
    return torch.where(scaled.isfinite(), scaled.clamp(-MAX_FP8, MAX_FP8), torch.nan).to(FP8)


def widened(rows: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """Return what rows taken from pages stand for, in ``dtype``."""
    return (rows.float() * scale).to(dtype) if rows.dtype is FP8 else rows.to(dtype)


def bits_of(pages: torch.Tensor) -> torch.Tensor:
    """Return 8-bit floats as bytes, which can be moved where they cannot be counted with; anything else as it is."""
    return pages.view(torch.uint8) if pages.dtype is FP8 else pages
