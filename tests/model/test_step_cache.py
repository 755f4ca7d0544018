"""Which velocities step caching leaves out, and how well it foresees them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from model.forecast import Forecast
from model.step_cache_rules import StepCache

COMPUTED_AT = (2, 5, 8, 11)


def forecast_of(velocities: dict[int, Tensor], order: int) -> Forecast:
    (first, velocity), *later = velocities.items()
    forecast = Forecast.begin(first, velocity)
    for step, velocity in later:
        forecast = forecast.followed_by(step, velocity, order)
    return forecast


def polynomial(coefficients: list[float], step: int) -> Tensor:
    return torch.full((3, 4), sum(coefficient * step**power for power, coefficient in enumerate(coefficients)))


def test_the_first_evaluations_are_computed_then_every_third() -> None:
    cache = StepCache(interval=3, num_first=5)
    assert [evaluation for evaluation in range(16) if cache.is_computed(evaluation)] == [0, 1, 2, 3, 4, 7, 10, 13]


@pytest.mark.parametrize("interval", [2, 5])
def test_the_first_of_all_is_computed_whatever_is_left_out(interval: int) -> None:
    cache = StepCache(interval, num_first=1)
    assert [evaluation for evaluation in range(11) if cache.is_computed(evaluation)] == list(range(0, 11, interval))


@pytest.mark.parametrize("order", [0, 1])
def test_a_series_of_order_0_or_1_foresees_a_polynomial_of_that_degree_exactly(order: int) -> None:
    coefficients = [0.5, -0.25][: order + 1]
    forecast = forecast_of({step: polynomial(coefficients, step) for step in COMPUTED_AT}, order)
    assert torch.equal(forecast.velocity(13), polynomial(coefficients, 13))


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_the_series_is_that_of_the_paper(order: int) -> None:
    """Backward differences over the interval N, in float64: sum over i of (D^i v / N^i) x^i / i!."""
    generator = torch.Generator().manual_seed(order)
    velocities = {step: torch.randn(3, 4, generator=generator) for step in COMPUTED_AT}
    differences = [velocity.double() for velocity in velocities.values()]
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for i in range(order + 1):
        expected += differences[-1] / 3**i * 2**i / math.factorial(i)
        differences = [later - earlier for earlier, later in pairwise(differences)]
    assert (forecast_of(velocities, order).velocity(13) - expected).abs().max() < 1e-5


def test_a_series_has_no_more_derivatives_than_velocities_allow() -> None:
    velocity = torch.ones(3, 4)
    forecast = Forecast.begin(0, velocity)
    assert torch.equal(forecast.velocity(1), velocity)
    assert len(forecast.followed_by(1, velocity, order=6).factors) == 2
