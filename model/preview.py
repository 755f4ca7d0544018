"""A rough picture of latents at next to no cost: one linear map from a latent cell and its neighbours to the block of pixels it stands for.

Fitted by least squares to what the model's own VAE decodes, on pictures drawn for it. For showing a picture while it is denoised; the
finished one goes through the decoder. After the latent previews of comfyanonymous/ComfyUI (latent_preview.py), which map a cell to one
colour; with its neighbours and one output for each pixel of the block, edges show.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.vae import Vae

WINDOW = 3
"""Cells a side that a block of pixels is predicted from."""

MAX_SIDE = 256
"""Longest side of a preview, in pixels."""

NUM_PICTURES = 24
PICTURE_CELLS = 12
"""Pictures drawn for the fit, and their side in latent cells: 3,456 equations for some 150 unknowns."""

RIDGE = 1e-3
"""Weight of the ridge term, relative to the mean variance of a feature: keeps the map tame where the latents say nothing."""


@dataclass(frozen=True, slots=True)
class LatentPreview:
    """The map: ``weight [3, block, block, channels * 9]`` and ``bias [3, block, block]``, float32, to pixels in about [-1, 1]."""

    weight: Tensor
    bias: Tensor

    @property
    def block(self) -> int:
        """Pixels per latent cell side at full size."""
        return self.weight.shape[1]

    def to(self, device: torch.device) -> LatentPreview:
        """Return the map on ``device``."""
        return LatentPreview(self.weight.to(device), self.bias.to(device))

    def reduced(self, scale: int) -> LatentPreview:
        """Return the map to blocks of ``scale`` pixels a side, a divisor of `block`: the means of the pixels they cover."""
        factor = self.block // scale
        weight = self.weight.unflatten(2, (scale, factor)).unflatten(1, (scale, factor)).mean(dim=(2, 4))
        return LatentPreview(weight, self.bias.unflatten(2, (scale, factor)).unflatten(1, (scale, factor)).mean(dim=(2, 4)))

    def scale_for(self, rows: int, columns: int) -> int:
        """Return the largest block side with which a latent of this size stays within `MAX_SIDE` pixels; at least 1."""
        scale = self.block
        while scale > 1 and max(rows, columns) * scale > MAX_SIDE:
            scale //= 2
        return scale

    def paint(self, latent: Tensor) -> Tensor:
        """Turn a latent ``[channels, rows, columns]`` into pixels ``[1, 3, rows * block, columns * block]``; beyond 256 a side, shrunk."""
        _, rows, columns = latent.shape
        block = self.block
        features = _windows(latent[None])
        pixels = (self.weight.flatten(0, 2) @ features + self.bias.flatten()[:, None]).view(1, 3 * block * block, rows, columns)
        picture = F.pixel_shuffle(pixels, block)
        longest = max(picture.shape[2:])
        if longest <= MAX_SIDE:
            return picture
        height, width = (max(1, side * MAX_SIDE // longest) for side in picture.shape[2:])
        return F.adaptive_avg_pool2d(picture, (height, width))


@torch.no_grad()
def fit_preview(vae: Vae, pictures: Iterable[Tensor] | None = None) -> LatentPreview:
    """Fit the map to a VAE; the same result every time on the same machine.

    ``pictures`` are ``[1, 3, height, width]`` in [-1, 1], of the kind that will be drawn; left out, pictures of all kinds are made up.
    """
    device = next(vae.parameters()).device
    block, channels = vae.config.downsample, vae.config.z_channels
    num_features, num_outputs = channels * WINDOW * WINDOW + 1, 3 * block * block
    gram = torch.zeros(num_features, num_features, dtype=torch.float64, device=device)
    moment = torch.zeros(num_features, num_outputs, dtype=torch.float64, device=device)
    for picture in _drawn_pictures(PICTURE_CELLS * block) if pictures is None else pictures:
        latent = vae.encode(picture.to(device))
        target = F.pixel_unshuffle(vae.decode(latent).clamp(-1, 1), block).flatten(2)[0].double()
        features = F.pad(_windows(latent).double(), (0, 0, 0, 1), value=1.0)
        gram += features @ features.T
        moment += features @ target.T
    ridge = torch.full((num_features,), RIDGE * float(gram.diagonal()[:-1].mean()), dtype=torch.float64, device=device)
    ridge[-1] = 0.0
    solution = torch.linalg.solve(gram + ridge.diag(), moment).float()
    return LatentPreview(solution[:-1].T.reshape(3, block, block, -1).contiguous(), solution[-1].reshape(3, block, block).contiguous())


def _windows(latent: Tensor) -> Tensor:
    """Return the 3x3 neighbourhood of each cell of ``[1, channels, rows, columns]``: ``[channels * 9, rows * columns]``."""
    return F.unfold(F.pad(latent, (1, 1, 1, 1), mode="replicate"), WINDOW)[0]


def _drawn_pictures(side: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(NUM_PICTURES):
        yield _drawn_picture(side, generator)


def _drawn_picture(side: int, generator: torch.Generator) -> Tensor:
    """Draw a picture ``[1, 3, side, side]`` in [-1, 1]: a soft ground, flat rectangles and discs on it, a little grain."""
    ground = torch.rand(1, 3, 3, 3, generator=generator) * 2 - 1
    picture = F.interpolate(ground, size=(side, side), mode="bicubic", align_corners=True)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    for shape in range(int(torch.randint(2, 9, (), generator=generator))):
        y, x, half = (float(value) * side for value in torch.rand(3, generator=generator))
        colour = torch.rand(3, 1, generator=generator) * 2 - 1
        distance = (row - y).abs().maximum((column - x).abs()) if shape % 2 else ((row - y) ** 2 + (column - x) ** 2).sqrt()
        picture[0, :, distance < half / 3] = colour
    grain = torch.randn(1, 3, side, side, generator=generator) * float(torch.rand((), generator=generator)) * 0.1
    return (picture + grain).clamp(-1, 1)
