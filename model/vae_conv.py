"""The autoencoder's convolution, with what comes right before and after it, and its group norm.

On a CPU without gradients it is a C kernel that applies the rest where it reads and writes, in bands of rows; elsewhere torch's operations
one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.native_conv import ChannelScales, ConvShape, ConvView, NativeConv, conv_fits, lies_by_pixels
from kernels.native_kernels import native_kernels
from model.stepwise import Steps

BAND_PRODUCTS = 1 << 27
"""How many products a convolution goes through before it may be left: a millisecond or two, as long as a bit of a transformer's layer."""
BAND_VALUES = 1 << 22
"""The same for a group norm, which only reads."""
LEAST_ROWS = 2
"""Thinner bands would read their neighbours' rows more often than pays."""


@dataclass(slots=True)
class _Packed:
    """Weights as the C kernel reads them, and which state of the module's they were."""

    values: Tensor
    state: tuple[int, int, int]


class Conv(nn.Conv2d):
    """A square convolution; with ``stride`` 2 it pads at the end only, as the autoencoder's halving does."""

    def __init__(self, num_inputs: int, num_outputs: int, size: int, stride: int = 1) -> None:
        super().__init__(num_inputs, num_outputs, size, stride=stride, padding=size // 2 if stride == 1 else 0)
        self._packed: _Packed | None = None

    def forward_in_steps(
        self, x: Tensor, norm: nn.GroupNorm | None = None, *, activates: bool = True, doubles: bool = False, add: Tensor | None = None
    ) -> Steps[Tensor]:
        """Return ``add + conv(silu(norm(x)))`` for a picture ``[1, C, H, W]``, interruptible within.

        Without ``norm`` nothing is activated. With ``doubles`` each pixel is seen as four, the nearest neighbours of a picture of twice
        the size.
        """
        if conv_fits(x, self.weight) and (native := native_kernels()) is not None:
            return (yield from self._native_steps(native.conv, lies_by_pixels(x), norm, activates, doubles, add))
        if norm is not None:
            x = F.silu(norm(x)) if activates else norm(x)
        if doubles:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        if self.stride[0] > 1:
            x = F.pad(x, (0, 1, 0, 1))
        out: Tensor = self(x)
        yield
        return out if add is None else add + out

    def _native_steps(
        self, native: NativeConv, x: Tensor, norm: nn.GroupNorm | None, activates: bool, doubles: bool, add: Tensor | None
    ) -> Steps[Tensor]:
        scales = None if norm is None else (yield from _scales_in_steps(native, x, norm))
        shape = ConvShape(self.in_channels, self.out_channels, self.kernel_size[0], self.stride[0], int(self.padding[0]))
        add = None if add is None else lies_by_pixels(add)
        convolution = native.prepare(shape, x, self._packed_weights(native), ConvView(scales, activates, doubles), add)
        height, width = convolution.out.shape[2:]
        yield from _bands(convolution.do_rows, height, BAND_PRODUCTS // (width * self.weight.numel()))
        return convolution.out

    def _packed_weights(self, native: NativeConv) -> Tensor:
        """Return the weights as the kernel reads them, packed anew when they have changed."""
        assert self.bias is not None, "the autoencoder's convolutions have biases"
        state = (self.weight.data_ptr(), _version(self.weight), _version(self.bias))
        if self._packed is None or self._packed.state != state:
            self._packed = _Packed(native.pack(self.weight, self.bias), state)
        return self._packed.values


def _scales_in_steps(native: NativeConv, x: Tensor, norm: nn.GroupNorm) -> Steps[ChannelScales]:
    height, width = x.shape[2:]
    moments = torch.empty(height, 2, x.shape[1])
    yield from _bands(lambda first, end: native.note_moments(x, moments, first, end), height, BAND_VALUES // (width * x.shape[1]))
    return native.channel_scales(moments, width, norm.weight, norm.bias, norm.num_groups, norm.eps)


def _bands(do_rows: Callable[[int, int], None], height: int, num_rows: int) -> Steps[None]:
    """Do rows 0 to ``height - 1``, about ``num_rows`` at a time, interruptible after each time."""
    num_bands = -(-height // max(num_rows, LEAST_ROWS))
    for band in range(num_bands):
        do_rows(height * band // num_bands, height * (band + 1) // num_bands)
        yield


def _version(weight: Tensor) -> int:
    """Return how often a weight was written; those made for inference alone do not count it, and are not written again."""
    return 0 if weight.is_inference() else weight._version
