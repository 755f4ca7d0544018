"""The KV pool, and attention over it for one step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels.attention import attention_in_parts, interleaved_attention
from kernels.expert_layers import ExpertStack, run_layers
from kernels.head_norms import ExpertHeads
from kernels.heads import rotate_and_keep, split_heads
from kernels.kv_pages import UNSCALED, KvPages, KvScales
from kernels.pages import write_pages
from kernels.plan import AttentionPlan
from model.stepwise import Steps
from model.transformer import Rotation


class PagedKeysValues:
    """The KV pool ``[num_layers, 2, num_pages, page_size, num_kv_heads, head_dim]`` and attention over it.

    ``scales`` are those of each layer where the pool holds 8-bit floats.
    """

    def __init__(self, pool: torch.Tensor, scales: Sequence[KvScales] | None = None) -> None:
        self.pool = pool
        self.page_size = pool.shape[3]
        scales = [UNSCALED] * len(pool) if scales is None else scales
        self._layers = [KvPages(layer[0], layer[1], of_layer) for layer, of_layer in zip(pool, scales, strict=True)]

    def attend(self, plan: AttentionPlan) -> PagedAttend:
        """Return attention over one step's plan."""
        return PagedAttend(self.pool, self._layers, plan)


class PagedAttend:
    """Attention of one step: keeps new keys and values, then attends over past and present ones."""

    def __init__(self, pool: torch.Tensor, layers: list[KvPages], plan: AttentionPlan) -> None:
        self._pool = pool
        self._layers = layers
        self._plan = plan
        self.takes_projections = pool.is_cuda
        """On a GPU launches cost more than the sums in them; tests set it on a CPU too."""

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        pages = self._layers[layer]
        write_pages(k, v, pages, self._plan)
        return interleaved_attention(q, k, v, pages, self._plan)

    def attend_in_parts(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, most_parts: int) -> Steps[torch.Tensor]:
        """Do what calling it does, interruptible between up to ``most_parts`` parts."""
        pages = self._layers[layer]
        write_pages(k, v, pages, self._plan)
        return (yield from attention_in_parts(q, k, v, pages, self._plan, most_parts))

    def attend_projections(self, layer: int, qkv: torch.Tensor, experts: ExpertHeads, rotation: Rotation) -> torch.Tensor:
        """Norm, rotate and keep the heads of both experts in one go, then attend; ``qkv`` is overwritten."""
        pages = self._layers[layer]
        rotate_and_keep(qkv, experts, (rotation.cos, rotation.sin), pages, self._plan)
        return interleaved_attention(*split_heads(qkv, pages.num_kv_heads), pages, self._plan)

    def run_layers(self, stack: ExpertStack, x: torch.Tensor, rotation: Rotation) -> torch.Tensor | None:
        """Run a few understanding tokens through every layer in one call; see `kernels.expert_layers`."""
        return run_layers(x, rotation.cos, rotation.sin, stack, self._pool, self._plan)
