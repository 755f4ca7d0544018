"""What is done to the heads of each expert before attention, as `kernels.heads` and its Triton kernel take it."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """What one expert does to its heads: weights ``[d]`` of queries and keys, and whether it rounds only after the rotation (spec 9)."""

    q_norm: torch.Tensor
    k_norm: torch.Tensor
    rotates_in_float32: bool


@dataclass(frozen=True, slots=True)
class ExpertHeads:
    """The norms of both experts; the first ``num_und`` tokens are the understanding expert's."""

    und: HeadNorms
    gen: HeadNorms
    num_und: int
    eps: float


Angles = tuple[torch.Tensor, torch.Tensor]
