"""How far a kernel may be from its float64 twin."""

from __future__ import annotations

import torch

# Results here are weighted means or products of a few unit-variance values, magnitude below 8; the bound is in units of that.
#   float32   sums of at most a few thousand terms, each rounded to 2^-24: a few 1e-6
#   float16   the weights or the factors and the result are rounded to 2^-11: some 4e-3
#   bfloat16  the same to 2^-8 (two roundings, of up to 2^-9 x 8 each): some 6e-2
BOUND = {torch.float32: 1e-5, torch.float16: 8e-3, torch.bfloat16: 6e-2}


def assert_close_to_float64(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Check ``actual`` against ``expected`` (float64, from the same rounded inputs) at the bound of its dtype, absolute and relative."""
    assert expected.dtype is torch.float64
    bound = BOUND[actual.dtype]
    torch.testing.assert_close(actual.double().cpu(), expected, atol=bound, rtol=bound)
