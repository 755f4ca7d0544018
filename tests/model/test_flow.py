"""The flow-matching schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.flow import schedule


@pytest.mark.parametrize("num_timesteps", [2, 3, 12, 50])
def test_one_evaluation_less_than_timesteps_from_noise_to_data(num_timesteps: int) -> None:
    t, dt = schedule(num_timesteps, 3.0)
    assert len(t) == len(dt) == num_timesteps - 1
    assert t[0] == 1
    assert np.all(np.diff(t) < 0) and np.all(dt > 0)
    assert abs(dt.sum(dtype=np.float64) - 1) < 1e-6


def test_a_shift_of_one_spaces_the_steps_evenly() -> None:
    t, _ = schedule(5, 1.0)
    assert t.tolist() == [1.0, 0.75, 0.5, 0.25]


def test_a_shift_spends_more_steps_near_noise() -> None:
    """u = 1/2 becomes 3/2 / 2 = 3/4."""
    t, _ = schedule(3, 3.0)
    assert t.tolist() == [1.0, 0.75]


@pytest.mark.parametrize("shift", [1.0, 2.5, 3.0, 4.0])
def test_times_are_those_of_the_references_float32_arithmetic(shift: float) -> None:
    """Two ulp: torch may or may not fuse the multiplication and addition of linspace."""
    for num_timesteps in range(2, 120):
        u = torch.linspace(1, 0, num_timesteps)
        expected = (shift * u / (1 + (shift - 1) * u))[:-1].numpy()
        np.testing.assert_array_max_ulp(schedule(num_timesteps, shift)[0], expected, maxulp=2)


@pytest.mark.parametrize(("num_timesteps", "shift"), [(1, 3.0), (0, 3.0), (50, 0.0), (50, -1.0), (50, float("nan"))])
def test_an_impossible_schedule_is_refused(num_timesteps: int, shift: float) -> None:
    with pytest.raises(ValueError, match="num_timesteps >= 2 and shift > 0"):
        schedule(num_timesteps, shift)
