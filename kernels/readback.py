"""Numbers of the device brought to the host together: each reading is a wait, so a step reads once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch


def read_together(columns: Sequence[torch.Tensor]) -> list[list[float]]:
    """Return the numbers of each tensor, flattened. The host waits for the device once, whatever the tensors' dtypes.

    Booleans, integers up to 2^53 and floats up to 64 bits arrive exactly.
    """
    if not columns:
        return []
    numbers: list[float] = torch.cat([column.double().flatten() for column in columns]).tolist()
    ends = accumulate((column.numel() for column in columns), initial=0)
    return [numbers[start:end] for start, end in pairwise(ends)]
