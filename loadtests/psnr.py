"""How alike two pictures are: the peak signal-to-noise ratio of their 8-bit pixels."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

MAX_PSNR_DB = 99.0
"""What is said of pictures that are the same."""


def psnr_db(found: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> float:
    """Return the ratio in dB; both arrays have the same shape."""
    square = float(np.mean((found.astype(np.float64) - expected.astype(np.float64)) ** 2))
    return MAX_PSNR_DB if square == 0.0 else 10.0 * math.log10(255.0**2 / square)
