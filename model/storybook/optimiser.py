"""The optimiser of every training stage: Muon for matrices, AdamW for the rest, and a running average of the weights.

Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) moves each matrix by its momentum made orthogonal, scaled to the root mean
square of an AdamW step (Liu et al. 2025, arXiv:2502.16982, eq. 4) so that one learning rate serves both. Matrices of one shape are
orthogonalised in one batched product. All state is in named tensors, so that a run can stop and go on anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

import torch
from torch import Tensor

MUON_MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Muon's quintic iteration."""
NEWTON_SCHULZ_STEPS = 4
RMS_OF_ADAMW = 0.2
"""Root mean square of a typical AdamW step, which Muon's is scaled to."""
BETAS = (0.9, 0.98)
EPS = 1e-8


@dataclass(frozen=True, slots=True)
class OptimiserConfig:
    """``average_decay`` is the share of the running average that one step keeps; ``clip_norm`` bounds the gradient's norm."""

    learning_rate: float
    weight_decay: float = 0.0
    average_decay: float = 0.998
    clip_norm: float = 1.0


@dataclass(slots=True)
class Optimiser:
    """Holds and moves named parameters; those in ``matrix_names`` by Muon.

    Changed by `step`: the parameters, and the state tensors ``momentum.*``, ``square.*`` and ``average.*``.
    """

    parameters: Mapping[str, Tensor]
    matrix_names: frozenset[str]
    config: OptimiserConfig
    num_steps: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, parameter in self.parameters.items():
            self.state[f"momentum.{name}"] = torch.zeros_like(parameter)
            self.state[f"average.{name}"] = parameter.detach().clone()
            if name not in self.matrix_names:
                self.state[f"square.{name}"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, rate_factor: float, workers: Executor | None = None) -> float:
        """Move every parameter by its gradient at ``learning_rate * rate_factor``, clear the gradients, return their norm.

        ``workers`` share the matrices.
        """
        self.num_steps += 1
        gradients = {name: parameter.grad for name, parameter in self.parameters.items() if parameter.grad is not None}
        norm = torch.nn.utils.get_total_norm(gradients.values())
        torch._foreach_mul_(list(gradients.values()), (self.config.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        rate = self.config.learning_rate * rate_factor
        self._move_vectors([name for name in gradients if name not in self.matrix_names], rate)
        alike = self._by_shape([name for name in gradients if name in self.matrix_names])
        for _ in (map if workers is None else workers.map)(lambda names: self._move_matrices(names, rate), alike):
            pass
        self._average()
        for parameter in self.parameters.values():
            parameter.grad = None
        return float(norm)

    def averaged(self) -> dict[str, Tensor]:
        """Return the running average of every parameter."""
        return {name: self.state[f"average.{name}"] for name in self.parameters}

    def load_state(self, state: dict[str, Tensor], num_steps: int) -> None:
        """Take up a saved state."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
        self.num_steps = num_steps

    def _move_vectors(self, names: list[str], rate: float) -> None:
        """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)."""
        if not names:
            return
        parameters = [self.parameters[name] for name in names]
        gradients = [_gradient(parameter) for parameter in parameters]
        means, squares = ([self.state[f"{kind}.{name}"] for name in names] for kind in ("momentum", "square"))
        torch._foreach_lerp_(means, gradients, 1 - BETAS[0])
        torch._foreach_mul_(squares, BETAS[1])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - BETAS[1])
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_mul_(denominators, (1 - BETAS[1] ** self.num_steps) ** -0.5)
        torch._foreach_add_(denominators, EPS)
        torch._foreach_addcdiv_(parameters, means, denominators, -rate / (1 - BETAS[0] ** self.num_steps))

    def _by_shape(self, names: list[str]) -> list[list[str]]:
        """Group matrices of one shape, the most work first."""
        by_shape: dict[tuple[int, int], list[str]] = {}
        for name in names:
            by_shape.setdefault(_matrix_shape(self.parameters[name]), []).append(name)
        return sorted(by_shape.values(), key=lambda alike: -len(alike) * self.parameters[alike[0]].numel())

    @torch.no_grad()
    def _move_matrices(self, alike: list[str], rate: float) -> None:
        """Move matrices of one shape."""
        parameters = [self.parameters[name] for name in alike]
        rows, columns = _matrix_shape(parameters[0])
        gradients = [_gradient(parameter) for parameter in parameters]
        momenta = [self.state[f"momentum.{name}"] for name in alike]
        torch._foreach_lerp_(momenta, gradients, 1 - MUON_MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MUON_MOMENTUM)
        moves = orthogonalise(torch.stack([move.reshape(rows, columns) for move in ahead]))
        torch._foreach_mul_(parameters, 1 - rate * self.config.weight_decay)
        scaled = (-rate * RMS_OF_ADAMW * max(rows, columns) ** 0.5) * moves
        torch._foreach_add_(parameters, [move.view_as(parameter) for move, parameter in zip(scaled, parameters, strict=True)])

    def _average(self) -> None:
        """Follow the parameters; at first, while few steps have been made, faster."""
        decay = min(self.config.average_decay, self.num_steps / (self.num_steps + 10))
        averages = [self.state[f"average.{name}"] for name in self.parameters]
        torch._foreach_lerp_(averages, list(self.parameters.values()), 1 - decay)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return ``[n, rows, columns]`` with singular values near 1, by Newton-Schulz iteration in bfloat16 where that is fast."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if is_tall else matrices).float()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if multiplies_bfloat16(x.device):
        x = x.bfloat16()
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    result: Tensor = x.to(matrices.dtype)
    return result.mT if is_tall else result


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products in bfloat16, four to ten times as fast as float32's."""
    return device.type == "cuda" or bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _matrix_shape(parameter: Tensor) -> tuple[int, int]:
    """A convolution is the matrix from its inputs to its output channels."""
    return parameter.shape[0], parameter.numel() // parameter.shape[0]
