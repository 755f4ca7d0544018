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

from model.latents import unpatchify
from model.vae import Vae

WINDOW = 3
"""Cells a side that a block of pixels is predicted from."""

MAX_SIDE = 256
"""Longest side of a preview, in pixels."""

MAX_U8 = 255

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

    def reduced(self, scale: int) -> LatentPreview:
        """Return the map to blocks of ``scale`` pixels a side, a divisor of `block`: the means of the pixels they cover."""
        factor = self.block // scale
        weight = self.weight.unflatten(2, (scale, factor)).unflatten(1, (scale, factor)).mean(dim=(2, 4))
        return LatentPreview(weight, self.bias.unflatten(2, (scale, factor)).unflatten(1, (scale, factor)).mean(dim=(2, 4)))

    def for_grid(self, rows: int, columns: int, patch_size: int, device: torch.device | None = None) -> GridPreview:
        """Return the map for pictures of ``rows`` x ``columns`` latent tokens of ``patch_size`` cells a side, on ``device``."""
        height, width = rows * patch_size, columns * patch_size
        num_values = height * width * (self.weight.shape[-1] // (WINDOW * WINDOW))
        # Unpatchify the values' numbers instead of the values: each shows where its value ends up among the features.
        numbers = torch.arange(num_values, dtype=torch.float64).view(rows * columns, -1)
        index = _windows(unpatchify(numbers, rows, columns, patch_size)[None]).long()
        every = -(-max(height, width) // MAX_SIDE)
        index = index.view(-1, height, width)[:, ::every, ::every]
        reduced = self.reduced(_scale_for(self.block, max(height, width)))
        half_range = MAX_U8 / 2
        return GridPreview(
            index=index.flatten().to(device),
            weight=(reduced.weight.flatten(0, 2) * half_range).to(device),
            bias=(reduced.bias.flatten()[:, None] * half_range + half_range).to(device),
            block=reduced.block,
            height=index.shape[1],
            width=index.shape[2],
        )


@dataclass(frozen=True, slots=True)
class GridPreview:
    """The map for one size of picture, from latent tokens to 8-bit pixels in one gather and one product.

    ``index [channels * 9 * height * width]`` picks the features from the flattened tokens.
    """

    index: Tensor
    weight: Tensor
    bias: Tensor
    block: int
    height: int
    width: int

    def paint(self, tokens: Tensor) -> Tensor:
        """Turn latent tokens ``[num_tokens, dim]`` float32 into 8-bit pixels ``[height * block, width * block, 3]``."""
        block = self.block
        features = tokens.flatten().index_select(0, self.index).view(self.weight.shape[1], -1)
        values = torch.addmm(self.bias, self.weight, features).clamp_(0, MAX_U8)
        blocks = values.view(3, block, block, self.height, self.width).permute(3, 1, 4, 2, 0)
        return blocks.to(torch.uint8).reshape(self.height * block, self.width * block, 3)


def _scale_for(block: int, side: int) -> int:
    """Return the largest block side with which ``side`` cells stay within `MAX_SIDE` pixels; at least 1."""
    while block > 1 and side * block > MAX_SIDE:
        block //= 2
    return block


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
