"""The norm with its own backward pass: the same values as the reference, and gradients that finite differences confirm."""

from __future__ import annotations

import torch

from kernels import reference, training

EPS = 1e-6


def test_norm_for_training_is_the_reference() -> None:
    x, weight = torch.randn(5, 3, 16), torch.randn(16)

    assert torch.allclose(training.rms_norm(x, weight, EPS), reference.rms_norm(x, weight, EPS), atol=1e-6)


def test_gradients_of_the_norm_agree_with_finite_differences() -> None:
    x = torch.randn(5, 3, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(16, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x, weight: training.rms_norm(x, weight, EPS), (x, weight))
