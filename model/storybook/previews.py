"""The shipped model's preview map, fitted to its own scenes: ``python -m model.storybook.previews model/checkpoints/storybook``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch

from model.latents import pixels_from_u8
from model.preview import fit_preview
from model.preview_files import preview_name, write_preview
from model.storybook.sampling import SceneKind, random_scene
from model.storybook.scenes import draw
from model.weights import load_bagel

NUM_SCENES = 240


def scene_pictures(num_scenes: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield scenes of every kind as the VAE takes them, ``[1, 3, 64, width]`` in [-1, 1]."""
    rng = Random(seed)
    for number in range(num_scenes):
        kind = tuple(SceneKind)[number % len(SceneKind)]
        yield pixels_from_u8(torch.from_numpy(draw(random_scene(rng, kind, wide=number % 3 == 0))))


def ship_preview(directory: Path) -> Path:
    """Put the map beside the checkpoint in ``directory``; return its file."""
    path = directory / preview_name(directory)
    write_preview(path, fit_preview(load_bagel(directory).vae, scene_pictures(NUM_SCENES, seed=0)))
    return path


if __name__ == "__main__":
    print(ship_preview(Path(sys.argv[1])))
