"""The autoencoder's convolutions in bands: the same numbers, in pieces short enough to be left between them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from model.vae import BAND_PIXELS, ResBlock, Upsample


def pixels(channels: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96), (72, 128), (4, 160)])
def test_bands_give_the_bits_of_a_whole_convolution(height: int, width: int) -> None:
    upsample, x = Upsample(32), pixels(32, height, width)
    with torch.inference_mode():
        assert torch.equal(upsample(x), upsample.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))


def test_a_resblock_in_bands_gives_the_bits_of_whole_convolutions() -> None:
    block, x = ResBlock(32, 64), pixels(32, 144, 128)
    assert block.nin_shortcut is not None
    with torch.inference_mode():
        whole = block.conv2(F.silu(block.norm2(block.conv1(F.silu(block.norm1(x))))))
        assert torch.equal(block(x), block.nin_shortcut(x) + whole)


def test_gradients_pass_through_bands() -> None:
    upsample, x = Upsample(32).double(), pixels(32, 40, 64).double()
    weight = upsample.conv.weight
    banded = torch.autograd.grad(upsample(x).square().sum(), weight)[0]
    whole = torch.autograd.grad(upsample.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")).square().sum(), weight)[0]
    torch.testing.assert_close(banded, whole)


def test_a_large_convolution_can_be_left_after_every_band() -> None:
    height, width = 128, 256
    with torch.inference_mode():
        num_pieces = len(list(Upsample(32).forward_in_steps(pixels(32, height // 2, width // 2))))
    assert num_pieces >= height * width // BAND_PIXELS
