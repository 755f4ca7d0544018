"""The autoencoder's convolutions: torch's numbers in float64, the same bits whatever the bands and threads, in pieces short enough."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from kernels.native_conv import lies_by_pixels
from kernels.native_threads import set_native_threads
from model import vae_conv
from model.stepwise import run_through
from model.vae import AttnBlock, Downsample, ResBlock, Upsample
from model.vae_conv import Conv

# A sum of n products of unit normals, in stretches of 256 with float32 rounding: about 2 units in the last place of its size, seen 2.2e-6
# where results are of size 5; the activation's exponential is within 2e-7 of its argument's.
ATOL = 1e-5


@pytest.fixture(autouse=True)
def as_many_threads_as_torch() -> Iterator[None]:
    yield
    set_native_threads(None)


def pixels(channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(seed))


def random_conv(num_inputs: int, num_outputs: int, size: int, stride: int, seed: int) -> Conv:
    torch.manual_seed(seed)
    return Conv(num_inputs, num_outputs, size, stride=stride)


def random_norm(channels: int, num_groups: int) -> torch.nn.GroupNorm:
    norm = torch.nn.GroupNorm(num_groups, channels, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    return norm


def exact(
    conv: Conv, x: torch.Tensor, norm: torch.nn.GroupNorm | None, activates: bool, doubles: bool, add: torch.Tensor | None
) -> torch.Tensor:
    conv, x = copy.deepcopy(conv).double(), x.double()
    if norm is not None:
        x = copy.deepcopy(norm).double()(x)
        x = F.silu(x) if activates else x
    if doubles:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    if conv.stride[0] > 1:
        x = F.pad(x, (0, 1, 0, 1))
    out: torch.Tensor = conv(x)
    return out if add is None else out + add.double()


shapes = st.fixed_dictionaries({
    "num_inputs": st.integers(1, 40), "num_outputs": st.integers(1, 100), "height": st.integers(1, 21), "width": st.integers(1, 55),
    "kind": st.sampled_from(["3x3", "1x1", "halving", "doubling"]),
    "groups": st.sampled_from([0, 1, 2]), "activates": st.booleans(), "adds": st.booleans(), "seed": st.integers(0, 999),
    "num_threads": st.integers(1, 3),
})  # fmt: skip


@given(shapes)
def test_any_convolution_equals_torch_in_float64(shape: dict[str, int | bool | str]) -> None:
    num_inputs, height, width = int(shape["num_inputs"]), int(shape["height"]), int(shape["width"])
    kind, groups = shape["kind"], int(shape["groups"])
    if kind == "halving":
        height, width = 2 * height, 2 * width
    num_inputs *= max(groups, 1)
    conv = random_conv(num_inputs, int(shape["num_outputs"]), 1 if kind == "1x1" else 3, 2 if kind == "halving" else 1, int(shape["seed"]))
    x = pixels(num_inputs, height, width, int(shape["seed"])) + 3.0  # far from zero, where a careless variance cancels
    norm = random_norm(num_inputs, groups) if groups and height * width > 1 else None
    set_native_threads(int(shape["num_threads"]))
    with torch.inference_mode():
        activates, doubles = bool(shape["activates"]), kind == "doubling"
        plain = run_through(conv.forward_in_steps(x, norm, activates=activates, doubles=doubles))
        add = torch.randn_like(plain) if shape["adds"] else None
        out = run_through(conv.forward_in_steps(x, norm, activates=activates, doubles=doubles, add=add))
        torch.testing.assert_close(out.double(), exact(conv, x, norm, activates, doubles, add), rtol=1e-5, atol=ATOL)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_bands_and_threads_change_no_bit(num_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = ResBlock(32, 64), pixels(32, 50, 70)
    with torch.inference_mode():
        set_native_threads(1)
        whole = block(x)
        set_native_threads(num_threads)
        monkeypatch.setattr(vae_conv, "BAND_PRODUCTS", 1)
        monkeypatch.setattr(vae_conv, "BAND_VALUES", 1)
        assert torch.equal(block(x), whole)


def test_pictures_lie_either_way() -> None:
    block, x = ResBlock(32, 32), pixels(32, 12, 20)
    with torch.inference_mode():
        assert torch.equal(block(lies_by_pixels(x)), block(x.contiguous()))


@pytest.mark.parametrize("block", [ResBlock(32, 64), AttnBlock(32), Upsample(32), Downsample(32)], ids=lambda block: type(block).__name__)
def test_blocks_equal_themselves_in_torch(block: torch.nn.Module) -> None:
    x = pixels(32, 24, 40)
    in_torch = copy.deepcopy(block).double()(x.double())
    with torch.inference_mode():
        torch.testing.assert_close(block(x).double(), in_torch.detach(), rtol=1e-5, atol=ATOL)


def test_weights_that_changed_are_read_anew() -> None:
    conv, x = Conv(8, 8, 3), pixels(8, 6, 6)
    with torch.no_grad():
        before = run_through(conv.forward_in_steps(x))
        conv.weight.mul_(2.0)
        conv.bias.mul_(2.0)  # type: ignore[union-attr]
        torch.testing.assert_close(run_through(conv.forward_in_steps(x)), 2.0 * before)


def test_gradients_pass_through() -> None:
    upsample, x = Upsample(32).double(), pixels(32, 40, 64).double()
    weight = upsample.conv.weight
    ours = torch.autograd.grad(upsample(x).square().sum(), weight)[0]
    plain = torch.autograd.grad(upsample.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")).square().sum(), weight)[0]
    torch.testing.assert_close(ours, plain)


def test_a_large_convolution_can_be_left_after_every_band() -> None:
    upsample, (height, width) = Upsample(32), (256, 512)
    with torch.inference_mode():
        num_pieces = len(list(upsample.forward_in_steps(pixels(32, height // 2, width // 2))))
    assert num_pieces >= height * width * upsample.conv.weight.numel() // vae_conv.BAND_PRODUCTS
