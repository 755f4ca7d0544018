"""The matrices that a step multiplies by, and weights for them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from kernels.fp8 import Fp8Rows
from kernels.quantize import quantize_rows
from model.config import BagelConfig


@dataclass(frozen=True, slots=True)
class Matrix:
    """``[num_out, num_in]``, and whether a bias is added; ``is_of_expert``: may be kept in 8-bit floats."""

    name: str
    num_out: int
    num_in: int
    has_bias: bool = False
    is_of_expert: bool = True

    def draw(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Draw weights that keep what they multiply in size."""
        generator = torch.Generator(device).manual_seed(self.num_out)
        return (torch.randn(self.num_out, self.num_in, device=device, generator=generator) / math.sqrt(self.num_in)).to(dtype)

    def draw_in_fp8(self, device: torch.device) -> Fp8Rows:
        """Draw weights in 8-bit floats."""
        return quantize_rows(self.draw(torch.bfloat16, device))

    def draw_bias(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
        """Draw the bias, if there is one."""
        return torch.linspace(-1.0, 1.0, self.num_out, device=device).to(dtype) if self.has_bias else None


def matrices_of(config: BagelConfig) -> list[Matrix]:
    """Return the four of an expert's layer, and the output head."""
    llm = config.llm
    attended = llm.num_heads * llm.head_dim
    return [
        Matrix("qkv", llm.qkv_rows, llm.hidden_size, has_bias=True),
        Matrix("o", llm.hidden_size, attended),
        Matrix("gate_up", 2 * llm.intermediate_size, llm.hidden_size),
        Matrix("down", llm.hidden_size, llm.intermediate_size),
        Matrix("lm_head", llm.vocab_size, llm.hidden_size, is_of_expert=False),
    ]
