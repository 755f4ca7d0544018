"""The FLUX autoencoder: pictures to latents and back (spec section 4).

Module names are the names in ``ae.safetensors``, so that file maps onto this module one to one. Weights stay float32. Pictures are
encoded and decoded one at a time: padding several to one size would change the numbers (spec 4.3). Architecture after
black-forest-labs/flux: src/flux/modules/autoencoder.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.sizes import RESBLOCK_GROUPS, VaeConfig
from model.stepwise import Steps, run_through

GROUP_NORM_EPS = 1e-6
BAND_PIXELS, LEAST_BAND_ROWS = 4096, 16
"""How much of a picture a 3x3 convolution goes through before it may be left: about as long as a bit of a transformer's layer takes.
Thinner bands would read their neighbours' rows more often than pays."""


class Vae(nn.Module):
    """Encoder, decoder, and the affine map between the encoder's latents and the flow's."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode_moments(self, pixels: Tensor) -> Tensor:
        """Encode ``[1, 3, H, W]`` in [-1, 1] to mean and log-variance ``[1, 2C, H/8, W/8]``."""
        moments: Tensor = self.encoder(pixels)
        return moments

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode ``[1, 3, H, W]`` to the scaled mean latent ``[1, C, H/8, W/8]``; the reference samples here instead (spec 4.3)."""
        return run_through(self.encode_in_steps(pixels))

    def encode_in_steps(self, pixels: Tensor) -> Steps[Tensor]:
        """Do the same, interruptible after every block."""
        moments = yield from self.encoder.forward_in_steps(pixels)
        return self._scale(moments.chunk(2, dim=1)[0])

    def sample(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Encode ``[1, 3, H, W]`` to a scaled latent drawn with the unit Gaussian ``noise [1, C, H/8, W/8]``."""
        mean, logvar = self.encode_moments(pixels).chunk(2, dim=1)
        return self._scale(mean + torch.exp(0.5 * logvar) * noise)

    def decode(self, latent: Tensor) -> Tensor:
        """Decode a scaled latent ``[1, C, h, w]`` to a picture ``[1, 3, 8h, 8w]``, about [-1, 1], not clamped."""
        return run_through(self.decode_in_steps(latent))

    def decode_in_steps(self, latent: Tensor) -> Steps[Tensor]:
        """Do the same, interruptible after every block."""
        return (yield from self.decoder.forward_in_steps(latent / self.config.scale_factor + self.config.shift_factor))

    def _scale(self, z: Tensor) -> Tensor:
        return self.config.scale_factor * (z - self.config.shift_factor)


class Encoder(nn.Module):
    """Picture to moments: levels of resblocks, each but the last halved, then the middle."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths = [config.ch * mult for mult in config.ch_mult]
        self.conv_in = nn.Conv2d(config.in_channels, config.ch, 3, padding=1)
        self.down = nn.ModuleList()
        width_in = config.ch
        for level, width in enumerate(widths):
            is_last = level == len(widths) - 1
            self.down.append(DownLevel(width_in, width, config.num_res_blocks, None if is_last else Downsample(width)))
            width_in = width
        self.mid = Middle(width_in)
        self.norm_out = _norm(width_in)
        self.conv_out = nn.Conv2d(width_in, 2 * config.z_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        return run_through(self.forward_in_steps(pixels))

    def forward_in_steps(self, pixels: Tensor) -> Steps[Tensor]:
        x = self.conv_in(pixels)
        yield
        for level in self.down:
            assert isinstance(level, DownLevel)
            x = yield from level.forward_in_steps(x)
        x = yield from self.mid.forward_in_steps(x)
        moments: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return moments


class Decoder(nn.Module):
    """Latent to picture: the middle, then the levels from the last to the first, each but the first doubled."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths = [config.ch * mult for mult in config.ch_mult]
        width_in = widths[-1]
        self.conv_in = nn.Conv2d(config.z_channels, width_in, 3, padding=1)
        self.mid = Middle(width_in)
        levels: list[nn.Module] = []
        for level in reversed(range(len(widths))):
            levels.append(UpLevel(width_in, widths[level], config.num_res_blocks + 1, Upsample(widths[level]) if level > 0 else None))
            width_in = widths[level]
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = _norm(width_in)
        self.conv_out = nn.Conv2d(width_in, config.out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        return run_through(self.forward_in_steps(z))

    def forward_in_steps(self, z: Tensor) -> Steps[Tensor]:
        x = yield from self.mid.forward_in_steps(self.conv_in(z))
        for level in reversed(self.up):
            assert isinstance(level, UpLevel)
            x = yield from level.forward_in_steps(x)
        x = self.norm_out(x)
        yield
        return (yield from _convolve_in_steps(self.conv_out, x, F.silu))


class DownLevel(nn.Module):
    """Resblocks at one size, then half the size."""

    def __init__(self, width_in: int, width: int, num_blocks: int, downsample: Downsample | None) -> None:
        super().__init__()
        self.block = _resblocks(width_in, width, num_blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        return run_through(self.forward_in_steps(x))

    def forward_in_steps(self, x: Tensor) -> Steps[Tensor]:
        x = yield from _through(self.block, x)
        if self.downsample is not None:
            x = self.downsample(x)
            yield
        return x


class UpLevel(nn.Module):
    """Resblocks at one size, then twice the size."""

    def __init__(self, width_in: int, width: int, num_blocks: int, upsample: Upsample | None) -> None:
        super().__init__()
        self.block = _resblocks(width_in, width, num_blocks)
        self.upsample = upsample

    def forward(self, x: Tensor) -> Tensor:
        return run_through(self.forward_in_steps(x))

    def forward_in_steps(self, x: Tensor) -> Steps[Tensor]:
        x = yield from _through(self.block, x)
        return x if self.upsample is None else (yield from self.upsample.forward_in_steps(x))


class Middle(nn.Module):
    """Resblock, attention over all positions, resblock."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(width, width)
        self.attn_1 = AttnBlock(width)
        self.block_2 = ResBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return run_through(self.forward_in_steps(x))

    def forward_in_steps(self, x: Tensor) -> Steps[Tensor]:
        return (yield from _through((self.block_1, self.attn_1, self.block_2), x))


class ResBlock(nn.Module):
    """Two normed and activated 3x3 convolutions beside a shortcut."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.norm1 = _norm(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2 = _norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(width_in, width, 1) if width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        return run_through(self.forward_in_steps(x))

    def forward_in_steps(self, x: Tensor) -> Steps[Tensor]:
        h = self.norm1(x)
        yield
        h = self.norm2((yield from _convolve_in_steps(self.conv1, h, F.silu)))
        yield
        h = yield from _convolve_in_steps(self.conv2, h, F.silu)
        shortcut = x if self.nin_shortcut is None else self.nin_shortcut(x)
        out: Tensor = shortcut + h
        yield
        return out


class AttnBlock(nn.Module):
    """One-head self-attention over the h*w positions, with 1x1 convolutions as projections."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        out = F.scaled_dot_product_attention(_as_rows(self.q(h)), _as_rows(self.k(h)), _as_rows(self.v(h)))
        attended: Tensor = self.proj_out(out[:, 0].transpose(1, 2).reshape(x.shape))
        return x + attended


class Downsample(nn.Module):
    """Half the size: zeros to the right and below, then a 3x3 convolution of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Twice the size: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return run_through(self.forward_in_steps(x))

    def forward_in_steps(self, x: Tensor) -> Steps[Tensor]:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        yield
        return (yield from _convolve_in_steps(self.conv, x, _as_it_is))


def _through(blocks: Iterable[nn.Module], x: Tensor) -> Steps[Tensor]:
    """Run blocks one after the other, interruptible after each and within a resblock."""
    for block in blocks:
        if isinstance(block, ResBlock):
            x = yield from block.forward_in_steps(x)
        else:
            x = block(x)
            yield
    return x


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _convolve_in_steps(conv: nn.Module, x: Tensor, activate: Callable[[Tensor], Tensor]) -> Steps[Tensor]:
    """Convolve the activated ``[1, c, h, w]`` by 3x3 with zeros around, in bands of whole rows, interruptible after each.

    band    ....####....      rows start .. end-1 of the result
    read    ...######...      one row more on either side; beyond the picture's edge it is zero
    """
    assert isinstance(conv, nn.Conv2d)
    height, width = x.shape[2:]
    num_rows = max(LEAST_BAND_ROWS, BAND_PIXELS // width)
    if num_rows >= height:
        out: Tensor = conv(activate(x))
        yield
        return out
    out = x.new_empty(1, conv.out_channels, height, width)
    for start in range(0, height, num_rows):
        end = min(start + num_rows, height)
        read = F.pad(activate(x[:, :, max(start - 1, 0) : end + 1]), (0, 0, int(start == 0), int(end == height)))
        out[:, :, start:end] = F.conv2d(read, conv.weight, conv.bias, padding=(0, 1))
        yield
    return out


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(RESBLOCK_GROUPS, width, eps=GROUP_NORM_EPS)


def _resblocks(width_in: int, width: int, num_blocks: int) -> nn.ModuleList:
    return nn.ModuleList(ResBlock(width_in if index == 0 else width, width) for index in range(num_blocks))


def _as_rows(x: Tensor) -> Tensor:
    """``[1, c, h, w] -> [1, 1 head, h*w, c]``."""
    return x.flatten(2).transpose(1, 2).unsqueeze(1)
