"""The C convolutions as methods on tensors: pictures ``[1, C, H, W]`` whose channels lie together (channels last), float32 on a CPU.

Each piece of work takes a range of rows, so that whoever calls may leave between two; the bits do not depend on the ranges.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.native_threads import native_threads

POINTER, LONG, INT, FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float


class _Conv(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("x", "scale", "shift", "packed", "add", "y")),
        *((name, LONG) for name in ("height", "width", "num_inputs", "out_width", "num_outputs", "size", "stride", "pad")),
        *((name, LONG) for name in ("activates", "doubles")),
    )


@dataclass(frozen=True, slots=True)
class ConvShape:
    """A square convolution: output pixel (i, j) sees ``size`` x ``size`` pixels from (i stride - pad, j stride - pad) on, zeros outside."""

    num_inputs: int
    num_outputs: int
    size: int
    stride: int
    pad: int

    def rows_of(self, num_rows: int) -> int:
        """Return how many rows, or columns, come of so many; what is missing at the end is zeros, one row at most."""
        return (num_rows - 1) // self.stride + 1 if self.pad or self.size == 1 else (num_rows + 1 - self.size) // self.stride + 1


@dataclass(frozen=True, slots=True)
class ChannelScales:
    """A group norm of one picture as a factor and a summand for each channel, ``[C]`` each."""

    scale: Tensor
    shift: Tensor


@dataclass(frozen=True, slots=True)
class ConvView:
    """How a convolution sees its picture: normed by ``scales`` unless None, then activated by SiLU, then of twice the size."""

    scales: ChannelScales | None
    activates: bool
    doubles: bool


class NativeConv:
    """The convolutions of the opened library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._packed_values = library.conv_packed_values
        self._packed_values.argtypes, self._packed_values.restype = [LONG, LONG], LONG
        self._pack = library.conv_pack_float32
        self._pack.argtypes, self._pack.restype = [POINTER, POINTER, POINTER, LONG, LONG, LONG], None
        self._convolve = library.conv_float32
        self._convolve.argtypes, self._convolve.restype = [ctypes.POINTER(_Conv), LONG, LONG, INT], None
        self._row_moments = library.row_moments_float32
        self._row_moments.argtypes, self._row_moments.restype = [POINTER, POINTER, LONG, LONG, LONG, LONG, INT], None
        self._group_norm = library.group_norm_float32
        self._group_norm.argtypes, self._group_norm.restype = [*[POINTER] * 5, *[LONG] * 4, FLOAT], None

    def pack(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Return contiguous ``weight[N, C, size, size]`` and ``bias[N]`` in the order in which the kernel reads them."""
        num_outputs, num_inputs = weight.shape[:2]
        num_taps = weight.shape[2] * weight.shape[3]
        packed = torch.empty(self._packed_values(num_outputs, num_inputs * num_taps))
        self._pack(weight.data_ptr(), bias.data_ptr(), packed.data_ptr(), num_outputs, num_inputs, num_taps)
        return packed

    def note_moments(self, x: Tensor, moments: Tensor, first: int, end: int) -> None:
        """Write the moments of rows ``first`` to ``end - 1`` of ``x[1, C, H, W]`` into ``moments[H, 2, C]``."""
        self._row_moments(x.data_ptr(), moments.data_ptr(), first, end, x.shape[3], x.shape[1], native_threads())

    def channel_scales(self, moments: Tensor, width: int, weight: Tensor, bias: Tensor, num_groups: int, eps: float) -> ChannelScales:
        """Return the group norm of the picture that ``moments[H, 2, C]`` were taken of, ``width`` pixels a row."""
        height, _, num_channels = moments.shape
        scale, shift = torch.empty(num_channels), torch.empty(num_channels)
        self._group_norm(
            moments.data_ptr(), weight.data_ptr(), bias.data_ptr(), scale.data_ptr(), shift.data_ptr(),
            height, width, num_channels, num_groups, eps,
        )  # fmt: skip
        return ChannelScales(scale, shift)

    def prepare(self, shape: ConvShape, x: Tensor, packed: Tensor, view: ConvView, add: Tensor | None) -> Convolution:
        """Return the convolution of ``x[1, C, H, W]`` as ``view`` says it is seen, plus ``add``; none of it is done yet."""
        height, width = x.shape[2], x.shape[3]
        factor, scales = 2 if view.doubles else 1, view.scales
        out = torch.empty(
            (1, shape.num_outputs, shape.rows_of(height * factor), shape.rows_of(width * factor)), memory_format=torch.channels_last
        )
        call = _Conv(
            x.data_ptr(), None if scales is None else scales.scale.data_ptr(), None if scales is None else scales.shift.data_ptr(),
            packed.data_ptr(), None if add is None else add.data_ptr(), out.data_ptr(),
            height, width, shape.num_inputs, out.shape[3], shape.num_outputs, shape.size, shape.stride, shape.pad,
            view.activates, view.doubles,
        )  # fmt: skip
        return Convolution(out, self._convolve, call, (x, packed, scales, add))


@dataclass(frozen=True, slots=True)
class Convolution:
    """One convolution of one picture, done range of rows by range of rows. ``read`` keeps alive what is read."""

    out: Tensor
    _function: ctypes._NamedFuncPointer
    _call: _Conv
    read: tuple[object, ...]

    def do_rows(self, first: int, end: int) -> None:
        """Make rows ``first`` to ``end - 1`` of ``out``."""
        self._function(self._call, first, end, native_threads())


def lies_by_pixels(x: Tensor) -> Tensor:
    """Return ``x[1, C, H, W]`` with the channels of each pixel together, itself where they are."""
    return x if x.permute(0, 2, 3, 1).is_contiguous() else x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def conv_fits(x: Tensor, weight: Tensor) -> bool:
    """Whether the C convolutions take this picture: one, float32 on the CPU, without gradients."""
    return (
        not torch.is_grad_enabled()
        and x.dtype is torch.float32
        and weight.dtype is torch.float32
        and x.is_cpu
        and x.shape[0] == 1
        and weight.is_contiguous()
    )
