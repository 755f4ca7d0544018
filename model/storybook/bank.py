"""The towers' inputs for scenes: clean latents from the trained VAE, and ViT patches, made when first asked for and kept."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.latents import patchify, vit_patches
from model.storybook.architecture import VIT_TRANSFORM
from model.storybook.scenes import Scene, draw
from model.storybook.vae_training import to_pixels
from model.transforms import resize
from model.vae import Vae

MAX_SCENES = 150_000
"""Scenes kept, about 3 kB each for the latents and 9 kB for the patches; beyond, everything is forgotten and made again."""


class Bank:
    """Latent tokens and ViT patches by scene. Threads may share one: at worst both make the same thing."""

    def __init__(self, vae: Vae, patch_size: int, device: torch.device) -> None:
        self._vae = vae.eval()
        self._patch_size = patch_size
        self._device = device
        self._latents: dict[Scene, Tensor] = {}
        self._patches: dict[Scene, Tensor] = {}

    @torch.no_grad()
    def latents(self, scenes: list[Scene]) -> Tensor:
        """Return the scaled mean latents of scenes of one format as tokens, ``[n, num_latents, p*p*C]`` float32."""
        known = {scene: self._latents[scene] for scene in scenes if scene in self._latents}
        missing = [scene for scene in scenes if scene not in known]
        if len(self._latents) + len(missing) > MAX_SCENES:
            self._latents = {}
        if missing:
            made = dict(zip(missing, self._encode(missing), strict=True))
            self._latents.update(made)
            known.update(made)
        return torch.stack([known[scene] for scene in scenes])

    def _encode(self, scenes: list[Scene]) -> list[Tensor]:
        pixels = to_pixels(np.stack([draw(scene) for scene in scenes])).to(self._device)
        with torch.autocast(self._device.type, enabled=False):
            return [patchify(latent, self._patch_size) for latent in self._vae.encode(pixels)]

    def patches(self, scenes: list[Scene]) -> Tensor:
        """Return the ViT patches of scenes of one format, ``[n, num_patches, 588]`` float32."""
        if len(self._patches) > MAX_SCENES:
            self._patches = {}
        return torch.stack([self._patches_of(scene) for scene in scenes]).to(self._device).float().div(127.5).sub(1.0)

    def _patches_of(self, scene: Scene) -> Tensor:
        patches = self._patches.get(scene)
        if patches is None:
            patches = self._patches[scene] = byte_patches(draw(scene))
        return patches


def byte_patches(picture: np.ndarray) -> Tensor:
    """Resize a picture as the server does for the ViT and cut it into patches, ``[num_patches, 588]`` uint8."""
    resized = np.asarray(resize(Image.fromarray(picture), VIT_TRANSFORM))
    as_planes = torch.from_numpy(resized.copy()).permute(2, 0, 1)[None].float()
    return vit_patches(as_planes).to(torch.uint8)
