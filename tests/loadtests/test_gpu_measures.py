"""What the GPU script's figures are made of."""

from __future__ import annotations

import pytest
import torch

from loadtests.gpu.busy import covered
from loadtests.gpu.peers import CannotTake, Site, peers
from loadtests.kernels.shapes import BAGEL, Row, Segment, Shape, decode, denoise

CPU = Site(torch.float32, torch.device("cpu"))


def test_time_that_two_kernels_share_counts_once() -> None:
    assert covered([(5.0, 7.0), (0.0, 2.0), (1.0, 3.0), (1.5, 2.5)]) == 5.0
    assert covered([]) == 0.0


@pytest.mark.parametrize("row", [Row(0, ((Segment.TEXT, 3),)), Row(2, ((Segment.TEXT, 1), (Segment.LATENTS, 6)))])
def test_a_peer_without_the_mask_does_not_pretend(row: Row) -> None:
    with pytest.raises(CannotTake, match="mask is not full"):
        peers()["varlen attention"](Shape("masked", (row,), BAGEL), CPU)


def test_rows_of_different_lengths_are_not_made_alike() -> None:
    with pytest.raises(CannotTake, match="not alike"):
        peers()["sdpa flash"](Shape("mixed", (decode(3), denoise(3, 4)), BAGEL), CPU)
