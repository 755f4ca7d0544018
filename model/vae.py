"""The FLUX autoencoder: pictures to latents and back (spec section 4).

Module names are the names in ``ae.safetensors``, so that file maps onto this module one to one. Weights stay float32. Pictures are
encoded and decoded one at a time: padding several to one size would change the numbers (spec 4.3). Architecture after
black-forest-labs/flux: src/flux/modules/autoencoder.py.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kernels.picture_attention import picture_attention
from model.sizes import RESBLOCK_GROUPS, VaeConfig
from model.stepwise import Steps, run_through
from model.vae_conv import Conv

GROUP_NORM_EPS = 1e-6


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


class Part(nn.Module):
    """A part of the autoencoder, from one picture to another. Called, it runs through; `forward_in_steps` can be interrupted."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output without interruption."""
        return run_through(self.forward_in_steps(x))

    def forward_in_steps(self, x: Tensor) -> Steps[Tensor]:
        """Compute the output, interruptible after every convolution and within large ones."""
        raise NotImplementedError


class Encoder(Part):
    """Picture to moments: levels of resblocks, each but the last halved, then the middle."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths = [config.ch * mult for mult in config.ch_mult]
        self.conv_in = Conv(config.in_channels, config.ch, 3)
        self.down = nn.ModuleList()
        width_in = config.ch
        for level, width in enumerate(widths):
            is_last = level == len(widths) - 1
            self.down.append(DownLevel(width_in, width, config.num_res_blocks, None if is_last else Downsample(width)))
            width_in = width
        self.mid = Middle(width_in)
        self.norm_out = _norm(width_in)
        self.conv_out = Conv(width_in, 2 * config.z_channels, 3)

    def forward_in_steps(self, x: Tensor) -> Steps[Tensor]:
        x = yield from self.conv_in.forward_in_steps(x)
        x = yield from _through(self.down, x)
        x = yield from self.mid.forward_in_steps(x)
        return (yield from self.conv_out.forward_in_steps(x, self.norm_out))


class Decoder(Part):
    """Latent to picture: the middle, then the levels from the last to the first, each but the first doubled."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths = [config.ch * mult for mult in config.ch_mult]
        width_in = widths[-1]
        self.conv_in = Conv(config.z_channels, width_in, 3)
        self.mid = Middle(width_in)
        levels: list[nn.Module] = []
        for level in reversed(range(len(widths))):
            levels.append(UpLevel(width_in, widths[level], config.num_res_blocks + 1, Upsample(widths[level]) if level > 0 else None))
            width_in = widths[level]
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = _norm(width_in)
        self.conv_out = Conv(width_in, config.out_ch, 3)

    def forward_in_steps(self, x: Tensor) -> Steps[Tensor]:
        x = yield from self.conv_in.forward_in_steps(x)
        x = yield from self.mid.forward_in_steps(x)
        x = yield from _through(reversed(self.up), x)
        return (yield from self.conv_out.forward_in_steps(x, self.norm_out))


class DownLevel(Part):
    """Resblocks at one size, then half the size."""

    def __init__(self, width_in: int, width: int, num_blocks: int, downsample: Downsample | None) -> None:
        super().__init__()
        self.block = _resblocks(width_in, width, num_blocks)
        self.downsample = downsample

    def forward_in_steps(self, x: Tensor) -> Steps[Tensor]:
        x = yield from _through(self.block, x)
        if self.downsample is not None:
            x = yield from self.downsample.forward_in_steps(x)
        return x


class UpLevel(Part):
    """Resblocks at one size, then twice the size."""

    def __init__(self, width_in: int, width: int, num_blocks: int, upsample: Upsample | None) -> None:
        super().__init__()
        self.block = _resblocks(width_in, width, num_blocks)
        self.upsample = upsample

    def forward_in_steps(self, x: Tensor) -> Steps[Tensor]:
        x = yield from _through(self.block, x)
        return x if self.upsample is None else (yield from self.upsample.forward_in_steps(x))


class Middle(Part):
    """Resblock, attention over all positions, resblock."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(width, width)
        self.attn_1 = AttnBlock(width)
        self.block_2 = ResBlock(width, width)

    def forward_in_steps(self, x: Tensor) -> Steps[Tensor]:
        return (yield from _through((self.block_1, self.attn_1, self.block_2), x))


class ResBlock(Part):
    """Two normed and activated 3x3 convolutions beside a shortcut."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.norm1 = _norm(width_in)
        self.conv1 = Conv(width_in, width, 3)
        self.norm2 = _norm(width)
        self.conv2 = Conv(width, width, 3)
        self.nin_shortcut = Conv(width_in, width, 1) if width_in != width else None

    def forward_in_steps(self, x: Tensor) -> Steps[Tensor]:
        h = yield from self.conv1.forward_in_steps(x, self.norm1)
        shortcut = x if self.nin_shortcut is None else (yield from self.nin_shortcut.forward_in_steps(x))
        return (yield from self.conv2.forward_in_steps(h, self.norm2, add=shortcut))


class AttnBlock(Part):
    """One-head self-attention over the h*w positions, with 1x1 convolutions as projections."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q = Conv(width, width, 1)
        self.k = Conv(width, width, 1)
        self.v = Conv(width, width, 1)
        self.proj_out = Conv(width, width, 1)

    def forward_in_steps(self, x: Tensor) -> Steps[Tensor]:
        q = _as_rows((yield from self.q.forward_in_steps(x, self.norm, activates=False)))
        k = _as_rows((yield from self.k.forward_in_steps(x, self.norm, activates=False)))
        v = _as_rows((yield from self.v.forward_in_steps(x, self.norm, activates=False)))
        num, channels, height, width = x.shape
        out = picture_attention(q, k, v, [height * width] * num)
        yield
        return (yield from self.proj_out.forward_in_steps(out.view(num, height, width, channels).permute(0, 3, 1, 2), add=x))


class Downsample(Part):
    """Half the size: zeros to the right and below, then a 3x3 convolution of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = Conv(width, width, 3, stride=2)

    def forward_in_steps(self, x: Tensor) -> Steps[Tensor]:
        return (yield from self.conv.forward_in_steps(x))


class Upsample(Part):
    """Twice the size: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = Conv(width, width, 3)

    def forward_in_steps(self, x: Tensor) -> Steps[Tensor]:
        return (yield from self.conv.forward_in_steps(x, doubles=True))


def _through(parts: Iterable[nn.Module], x: Tensor) -> Steps[Tensor]:
    """Run parts one after the other, interruptible within and after each."""
    for part in parts:
        assert isinstance(part, Part)
        x = yield from part.forward_in_steps(x)
    return x


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(RESBLOCK_GROUPS, width, eps=GROUP_NORM_EPS)


def _resblocks(width_in: int, width: int, num_blocks: int) -> nn.ModuleList:
    return nn.ModuleList(ResBlock(width_in if index == 0 else width, width) for index in range(num_blocks))


def _as_rows(x: Tensor) -> Tensor:
    """``[n, c, h, w] -> [n*h*w, 1 head, c]``."""
    return x.permute(0, 2, 3, 1).reshape(-1, 1, x.shape[1])
