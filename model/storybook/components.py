"""Connected components of a boolean picture, by joining runs of rows that touch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]


def label_components(mask: Mask) -> tuple[Labels, int]:
    """Label the 4-connected regions of ``mask [height, width]`` 1, 2, … and return the labels (0 outside) and their number."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)
    runs = list(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True))
    parent = _join_touching(runs)
    labels = np.zeros(mask.shape, dtype=np.int32)
    number_of: dict[int, int] = {}
    for index, (row, start, end) in enumerate(runs):
        root = _root(parent, index)
        labels[row, start:end] = number_of.setdefault(root, len(number_of) + 1)
    return labels, len(number_of)


def _join_touching(runs: list[tuple[int, int, int]]) -> list[int]:
    """Return a forest over runs ``(row, start, end)``, in row order, that joins those which overlap in neighbouring rows."""
    parent = list(range(len(runs)))
    above = 0
    for index, (row, start, end) in enumerate(runs):
        while runs[above][0] < row - 1 or (runs[above][0] == row - 1 and runs[above][2] <= start):
            above += 1
        candidate = above
        while runs[candidate][0] == row - 1 and runs[candidate][1] < end:
            parent[_root(parent, candidate)] = _root(parent, index)
            candidate += 1
    return parent


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index
