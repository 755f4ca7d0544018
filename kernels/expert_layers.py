"""A whole stack of layers of one expert over a few tokens, and the norm after it, in one native call.

A step that only decodes is bound by reading the weights, and on a small model by Python beside it: one call for all layers leaves the
reading. The result is that of `kernels.expert`, `kernels.pages` and `kernels.attention` called layer by layer, and of `kernels.rms_norm`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels.expert import ExpertWeights
from kernels.native_kernels import ExpertArray, expert_array, expert_fits, native_kernels, stack_fits
from kernels.plan import AttentionPlan


class ExpertStack:
    """The weights of one expert in every layer, first to last, and of the norm ``[hidden]`` after the last, which has their epsilon."""

    def __init__(self, layers: Sequence[ExpertWeights], last_norm: torch.Tensor) -> None:
        self.layers = layers
        self.last_norm = last_norm
        self._native: ExpertArray | None = None
        self._place = 0

    def native(self) -> ExpertArray:
        """Return the weights' pointers, taken anew when the weights have moved."""
        place = self.layers[-1].down_weight.data_ptr()
        if self._native is None or self._place != place:
            self._native, self._place = expert_array(self.layers), place
        return self._native


def run_layers(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, stack: ExpertStack, kv_pool: torch.Tensor, plan: AttentionPlan
) -> torch.Tensor | None:
    """Run every layer of ``stack`` over ``x [T, hidden]``, keeping keys and values in the pool.

    ``cos`` and ``sin`` are ``[T, d]``, ``kv_pool`` is ``[num_layers, 2, num_pages, page_size, Hk, d]`` and is written in place. Returns
    the residual stream after the last layer, normed, a new tensor, or None where only the layer-by-layer way is possible (more than a few
    rows, another device or dtype, gradients, no C compiler).
    """
    first = stack.layers[0]
    if not (expert_fits(x, first.qkv_weight, first.q_norm, (cos, sin)) and stack_fits(x, kv_pool)):
        return None
    native = native_kernels()
    return None if native is None else native.expert_layers(x, (cos, sin), stack.native(), stack.last_norm, kv_pool, plan)
