"""The map from latents to a rough picture: what it must recover, how large it may be, where it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.latents import patchify, pixels_from_u8
from model.preview import MAX_SIDE, LatentPreview, fit_preview
from model.preview_files import load_or_fit_preview, preview_name, read_preview, write_preview
from model.sizes import VaeConfig
from model.storybook.previews import scene_pictures
from model.vae import Vae
from model.weights import load_bagel

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
STORYBOOK = Path(__file__).parents[2] / "model" / "checkpoints" / "storybook"


class LinearVae(Vae):
    """Stores a picture's blocks in its channels, mixed by an orthogonal matrix: a codec of which the best linear map is known."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.config = VaeConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1, z_channels=12)
        generator = torch.Generator().manual_seed(1)
        self.mix = nn.Parameter(torch.linalg.qr(torch.randn(12, 12, generator=generator))[0])

    def encode(self, pixels: Tensor) -> Tensor:
        return torch.einsum("oc,bchw->bohw", self.mix, F.pixel_unshuffle(pixels, 2))

    def decode(self, latent: Tensor) -> Tensor:
        return F.pixel_shuffle(torch.einsum("oc,bohw->bchw", self.mix, latent), 2)


def painted(preview: LatentPreview, latent: Tensor, patch_size: int = 1) -> Tensor:
    """Paint a latent ``[channels, rows, columns]`` by way of its tokens; ``[1, 3, height, width]`` in [-1, 1]."""
    _, rows, columns = latent.shape
    grid = preview.for_grid(rows // patch_size, columns // patch_size, patch_size)
    return pixels_from_u8(grid.paint(patchify(latent, patch_size)))


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_a_linear_decoder_is_recovered(patch_size: int) -> None:
    vae = LinearVae()
    picture = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1

    rough = painted(fit_preview(vae), vae.encode(picture)[0].detach(), patch_size)

    # The ridge term and the sample of pictures leave an error of a few percent of the range of 2.
    assert float((rough - picture).abs().mean()) < 0.05


def test_a_reduced_map_gives_the_means_of_the_full_one() -> None:
    full = fit_preview(LinearVae())
    latent = torch.randn(12, 5, 7, generator=torch.Generator().manual_seed(3)) * 0.1

    # Two roundings to 8 bits of [-1, 1] lie between the two.
    assert torch.allclose(painted(full.reduced(1), latent), F.avg_pool2d(painted(full, latent), 2), atol=2 * 2 / 255)


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (64, 64), (128, 128), (20, 130), (300, 200)])
def test_no_preview_is_larger_than_256_pixels(rows: int, columns: int) -> None:
    preview = LatentPreview(torch.zeros(3, 8, 8, 4 * 9), torch.zeros(3, 8, 8))

    height, width = painted(preview, torch.zeros(4, rows, columns)).shape[2:]

    assert MAX_SIDE // 2 <= max(height, width) <= MAX_SIDE or (rows, columns) == (8, 8)
    assert abs(height / width - rows / columns) < 0.05


def test_what_was_fitted_once_is_found_again(tmp_path: Path) -> None:
    """Beside a checkpoint without a shipped map; a file that is broken, or of another shape, is fitted anew."""
    directory, cache = tmp_path / "model", tmp_path / "cache"
    directory.mkdir()
    (directory / "ae.safetensors").write_bytes(b"stands for the weights")
    fitted = load_or_fit_preview(directory, LinearVae(), cache)

    (kept,) = cache.iterdir()
    marked = LatentPreview(fitted.weight + 1, fitted.bias)
    write_preview(kept, marked)
    assert torch.equal(load_or_fit_preview(directory, LinearVae(), cache).weight, marked.weight)
    for broken in (b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "):
        kept.write_bytes(broken)
        assert torch.equal(load_or_fit_preview(directory, LinearVae(), cache).weight, fitted.weight)


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "ae.safetensors").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")

    assert load_or_fit_preview(tmp_path, LinearVae(), tmp_path / "file" / "cache").block == 2


def test_a_map_beside_the_checkpoint_is_used() -> None:
    vae = load_bagel(CHECKPOINT).vae
    shipped = read_preview(CHECKPOINT / preview_name(CHECKPOINT), vae)

    assert shipped is not None
    assert torch.equal(load_or_fit_preview(CHECKPOINT, vae, None).weight, shipped.weight)


def test_storybook_comes_with_a_map_that_shows_its_scenes() -> None:
    """On scenes it was not fitted to, the map explains more than two thirds of what varies within a decoded picture."""
    vae = load_bagel(STORYBOOK).vae
    preview = read_preview(STORYBOOK / preview_name(STORYBOOK), vae)
    assert preview is not None, "renew it: python -m model.storybook.previews model/checkpoints/storybook"
    unexplained = varying = 0.0
    for picture in scene_pictures(12, seed=1):
        latent = vae.encode(picture).detach()
        decoded = vae.decode(latent).detach().clamp(-1, 1)
        unexplained += float((painted(preview, latent[0], 2) - decoded).square().sum())
        varying += float((decoded - decoded.mean((2, 3), keepdim=True)).square().sum())

    assert unexplained < varying / 3
