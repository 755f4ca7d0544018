"""The rectified-flow schedule: at which times the velocity is evaluated and how far each Euler step goes (spec 6.1).

numpy only. The update itself, ``x <- x - v * dt``, belongs to whoever holds the latents.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def schedule(num_timesteps: int, shift: float) -> tuple[FloatArray, FloatArray]:
    """Return times ``t`` and steps ``dt``, both ``[num_timesteps - 1]`` float32, from noise (t = 1) towards data.

    With u_i = 1 - i/(T-1): t_i = s u_i / (1 + (s-1) u_i), dt_i = t_i - t_{i+1}. BAGEL: modeling/bagel/bagel.py:generate_image, whose
    float32 arithmetic is followed operation by operation, because a guidance interval compares its bounds with t.

    Raises:
        ValueError: fewer than 2 timesteps, or a shift that is not positive.
    """
    if num_timesteps < 2 or not shift > 0:
        raise ValueError(f"a schedule needs num_timesteps >= 2 and shift > 0, got {num_timesteps} and {shift}")
    u = _linspace_one_to_zero(num_timesteps)
    s = np.float32(shift)
    t = s * u / (np.float32(1) + np.float32(shift - 1) * u)
    return t[:-1], t[:-1] - t[1:]


def _linspace_one_to_zero(num_points: int) -> FloatArray:
    """Return what ``torch.linspace(1, 0, num_points)`` returns: each half counted from its own end, with a float32 step, rounded once."""
    step = np.float64(np.float32(-1) / np.float32(num_points - 1))
    index = np.arange(num_points, dtype=np.float64)
    halves = np.where(index < num_points // 2, 1 + step * index, -step * (num_points - 1 - index))
    return halves.astype(np.float32)
