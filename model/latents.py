"""Between pictures and token rows: pixels, ViT patches, latent tokens, and the ids and values of their position tables.

Pure tensor reshaping with torch, no weights. Spec sections: 3.1 (ViT patches), 4.3 (latents, pixels), 4.4 (position tables). Both
tables are square and indexed with their own row stride, not with the picture's width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pixels_from_u8(rgb: Tensor) -> Tensor:
    """Turn 8-bit pixels ``[H, W, 3]`` into the towers' input ``[1, 3, H, W]`` float32 in [-1, 1]."""
    return rgb.permute(2, 0, 1).unsqueeze(0).to(torch.float32).div(255).sub(0.5).div(0.5)


def u8_from_pixels(pixels: Tensor) -> Tensor:
    """Turn a decoded picture ``[1, 3, H, W]`` into 8-bit pixels ``[H, W, 3]``; truncated, as the reference does, not rounded."""
    return (pixels[0].float() * 0.5 + 0.5).clamp(0, 1).mul(255).to(torch.uint8).permute(1, 2, 0).contiguous()


def vit_patches(pixels: Tensor, patch_size: int = 14) -> Tensor:
    """Cut a picture into patches ``[n, patch_size * patch_size * 3]`` float32, row by row, channel fastest inside a patch.

    ``pixels`` is ``[H, W, 3]`` uint8 or normalised ``[1, 3, H, W]``; H and W are multiples of the patch size.
    """
    normalised = pixels_from_u8(pixels) if pixels.dtype == torch.uint8 else pixels
    _, channels, height, width = normalised.shape
    grid = normalised.reshape(channels, height // patch_size, patch_size, width // patch_size, patch_size)
    return grid.permute(1, 3, 2, 4, 0).reshape(-1, patch_size * patch_size * channels)


def grid_position_ids(rows: int, columns: int, side: int, device: torch.device | None = None) -> Tensor:
    """Return the index of every token of a grid of ``rows`` x ``columns`` in a position table of ``side`` x ``side``, int64.

    Raises:
        ValueError: the grid does not fit the table.
    """
    if rows > side or columns > side:
        raise ValueError(f"a grid of {rows} x {columns} does not fit a position table of side {side}")
    return (torch.arange(rows, device=device)[:, None] * side + torch.arange(columns, device=device)).flatten()


def patchify(latent: Tensor, patch_size: int) -> Tensor:
    """Turn a latent ``[C, h*p, w*p]`` into tokens ``[h*w, p*p*C]``: row-major, inside a token (patch row, patch column, channel)."""
    channels, height, width = latent.shape
    grid = latent.reshape(channels, height // patch_size, patch_size, width // patch_size, patch_size)
    return grid.permute(1, 3, 2, 4, 0).reshape(-1, patch_size * patch_size * channels)


def unpatchify(tokens: Tensor, rows: int, columns: int, patch_size: int) -> Tensor:
    """Turn tokens ``[rows * columns, p*p*C]`` into the latent ``[C, rows*p, columns*p]``; the inverse of `patchify`."""
    channels = tokens.shape[1] // (patch_size * patch_size)
    grid = tokens.reshape(rows, columns, patch_size, patch_size, channels)
    return grid.permute(4, 0, 2, 1, 3).reshape(channels, rows * patch_size, columns * patch_size)


def sincos_table(side: int, dim: int) -> Tensor:
    """Compute a 2-D sin-cos position table ``[side * side, dim]`` float32; first half of each vector the column, second half the row.

    Computed in float64 (spec 4.4). A released checkpoint stores it rounded to bfloat16; the stored one is preferred.
    """
    quarter = dim // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    one_axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns = one_axis.repeat(side, 1)
    rows = one_axis.repeat_interleave(side, dim=0)
    return torch.cat([columns, rows], dim=1).float()
