"""8-bit floats (e4m3, Micikevicius et al. 2022, arXiv:2209.05433): rows as 8-bit values with one float32 scale each.

Weights are kept so, a scale to an output channel; activations are made so before each product, a scale to a token. No scale depends on
another row, so that a token's result does not depend on who shares the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

FP8 = torch.float8_e4m3fn
MAX_FP8 = 448.0
"""The largest e4m3 number."""
MIN_SCALE = 1e-12
"""The scale of a row of zeros, whose values are zero whatever it is."""


@dataclass(frozen=True, slots=True)
class Fp8Rows:
    """``values[R, K]`` e4m3 and ``scales[R]`` float32: row r stands for ``values[r] * scales[r]``."""

    values: torch.Tensor
    scales: torch.Tensor

    def wide(self) -> torch.Tensor:
        """Return what is stood for, float32 ``[R, K]``."""
        return self.values.float() * self.scales[:, None]
