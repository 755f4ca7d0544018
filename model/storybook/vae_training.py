"""The VAE's stage: reconstruct drawn scenes until the judge reads the reconstruction as it reads the drawing.

The loss is absolute pixel error, heavier on the things, plus a small pull of the posterior towards the unit Gaussian, which leaves
noise in the latent: the decoder then draws a clean picture from an approximate latent, as the flow will hand it. Half of the
first steps see crops of half the side round the places of the grid, four for the price of one picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from model.latents import u8_from_pixels
from model.sizes import VaeConfig
from model.storybook.judge import read
from model.storybook.optimiser import Optimiser, OptimiserConfig
from model.storybook.run import Means, Run, rate_factor
from model.storybook.sampling import HELD_OUT_PAIRS, SceneKind, held_out_scene, training_scene
from model.storybook.scenes import RGB, Rgb, Scene, draw, draw_background, draw_in
from model.vae import Vae

CROP_SIDE = 32
CROPS_PER_PICTURE = 4
CROPS_UNTIL = 0.55
"""Share of the training after which every batch is whole pictures."""
DIVERGENCE_UNTIL = 0.5
"""Share of the training over which the pull towards the Gaussian grows to its full weight: too strong at first, it empties the latent."""
WIDE_SHARE = 0.15
"""Share of the batches, of whole pictures, in the wide format."""
ANY_COLOUR_SHARE = 0.4
"""Share of the pictures whose things have any colours: so that the VAE learns outlines and colours apart, not a list of known things."""
AVOIDED_DISTANCE = 90.0
"""RGB distance that such a colour keeps from the one held out for the thing's shape."""
DECAY_SHARE = 0.6
"""Share of the training, at its end, over which the learning rate falls."""
THING_WEIGHT = 3.0
"""Weight of a thing's pixels, background pixels weighing 1."""


@dataclass(frozen=True, slots=True)
class VaeSettings:
    """How the VAE is trained. ``batch_size`` in whole pictures; ``report_every`` in steps, ``num_probes`` held-out scenes a kind then."""

    num_steps: int = 3000
    batch_size: int = 8
    divergence_weight: float = 4e-4
    report_every: int = 200
    num_probes: int = 60
    seed: int = 0
    optimiser: OptimiserConfig = OptimiserConfig(learning_rate=3e-3, average_decay=0.99)


def train_vae(vae: Vae, run: Run, settings: VaeSettings, device: torch.device) -> None:
    """Train in place, from the run's checkpoint on, and leave the averaged weights in ``vae``."""
    vae.to(device).train()
    optimiser = Optimiser(dict(vae.named_parameters()), _matrix_names(vae), settings.optimiser)
    run.load(optimiser)
    means = Means()
    while optimiser.num_steps < settings.num_steps:
        step = optimiser.num_steps
        rng = Random(f"{settings.seed} vae {step}")
        pixels, weight = (part.to(device) for part in _batch(rng, settings, step / settings.num_steps))
        divergence_weight = settings.divergence_weight * min(1.0, step / settings.num_steps / DIVERGENCE_UNTIL)
        loss, figures = _loss(vae, pixels, weight, divergence_weight)
        loss.backward()
        means.add(figures)
        optimiser.step(rate_factor(step, settings.num_steps, num_warm=20, num_decay=round(DECAY_SHARE * settings.num_steps)))
        if (step + 1) % settings.report_every == 0 or step + 1 == settings.num_steps:
            run.report(step + 1, means.take() | _judged(vae, optimiser, settings.num_probes))
            run.save(optimiser)
    _use(vae, optimiser.averaged())


def _loss(vae: Vae, pixels: Tensor, weight: Tensor, divergence_weight: float) -> tuple[Tensor, dict[str, float]]:
    mean, logvar = vae.encode_moments(pixels).chunk(2, dim=1)
    logvar = logvar.clamp(-12.0, 4.0)
    decoded = vae.decoder(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean))
    error = (decoded - pixels).abs()
    reconstruction = (error * weight).sum() / (weight.sum() * pixels.shape[1])
    divergence = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
    figures = {
        "loss": float(reconstruction.detach()),
        "divergence": float(divergence.detach()),
        "psnr": float(10.0 * torch.log10(4.0 / (decoded - pixels).detach().square().mean())),
        "posterior_deviation": float(torch.exp(0.5 * logvar.detach()).mean()),
        "latent_deviation": float(mean.detach().std()),
    }
    return reconstruction + divergence_weight * divergence, figures


def _batch(rng: Random, settings: VaeSettings, progress: float) -> tuple[Tensor, Tensor]:
    """Return pictures or crops ``[n, 3, h, w]`` in [-1, 1] and pixel weights ``[n, 1, h, w]``."""
    if progress < CROPS_UNTIL and rng.random() < 0.5:
        scenes = [_any_scene(rng, False) for _ in range(settings.batch_size)]
        return _crops(*_pictures(scenes, rng), rng)
    wide = rng.random() < WIDE_SHARE
    number = settings.batch_size * 2 // 3 if wide else settings.batch_size
    return _pictures([_any_scene(rng, wide) for _ in range(number)], rng)


def _any_scene(rng: Random, wide: bool) -> Scene:
    return training_scene(rng, rng.choice((SceneKind.SINGLE, SceneKind.PAIR, SceneKind.PAIR, SceneKind.COUNT)), wide)


def _pictures(scenes: list[Scene], rng: Random) -> tuple[Tensor, Tensor]:
    drawn = [draw_in(scene, _any_colours(scene, rng)) if rng.random() < ANY_COLOUR_SHARE else draw(scene) for scene in scenes]
    behind = [draw_background(scene.background, scene.width) for scene in scenes]
    is_thing = [np.abs(picture - back).max(axis=2) > 1.0 for picture, back in zip(drawn, behind, strict=True)]
    weight = 1.0 + (THING_WEIGHT - 1.0) * torch.from_numpy(np.stack(is_thing)).float()
    return to_pixels(np.stack(drawn)), weight[:, None]


def _any_colours(scene: Scene, rng: Random) -> list[Rgb]:
    """Choose any colour for each thing that is far from the one held out for its shape."""
    return [_any_colour([RGB[colour] for shape, colour in HELD_OUT_PAIRS if shape is thing.shape], rng) for thing in scene.things]


def _any_colour(avoided: list[Rgb], rng: Random) -> Rgb:
    while True:
        rgb = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        if all(math.dist(rgb, other) > AVOIDED_DISTANCE for other in avoided):
            return rgb


def to_pixels(pictures: np.ndarray) -> Tensor:
    """Turn 8-bit pictures ``[n, H, W, 3]`` into the towers' input ``[n, 3, H, W]`` in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().float().div(127.5).sub(1.0)


def _crops(pixels: Tensor, weight: Tensor, rng: Random) -> tuple[Tensor, Tensor]:
    """Cut each picture into crops at random places, multiples of the latent cell."""
    cuts = []
    for index in range(len(pixels)):
        for _ in range(CROPS_PER_PICTURE):
            top, left = (8 * rng.randint(0, (side - CROP_SIDE) // 8) for side in pixels.shape[2:])
            cuts.append((index, slice(top, top + CROP_SIDE), slice(left, left + CROP_SIDE)))
    return tuple(torch.stack([whole[index, :, rows, columns] for index, rows, columns in cuts]) for whole in (pixels, weight))  # type: ignore[return-value]


@torch.no_grad()
def reconstruct(vae: Vae, scene: Scene, device: torch.device) -> np.ndarray:
    """Return a scene drawn, encoded and decoded, ``[64, width, 3]`` 8-bit, one picture at a time as the server does."""
    pixels = to_pixels(draw(scene)[None]).to(device)
    return np.asarray(u8_from_pixels(vae.decode(vae.encode(pixels))).cpu().numpy())


def judge_reconstructions(vae: Vae, per_kind: int, device: torch.device, seed: int = 1) -> dict[str, float]:
    """Return, per kind of scene, the share of held-out scenes that the judge reads right after the VAE."""
    rng = Random(f"{seed} reconstructions")
    shares: dict[str, float] = {}
    for kind in SceneKind:
        scenes = [held_out_scene(rng, kind, wide=index % 5 == 4) for index in range(per_kind)]
        right = [read(reconstruct(vae, scene, device)).shows(scene) for scene in scenes]
        shares[f"right_{kind.value}"] = sum(right) / len(right)
    return shares


def _judged(vae: Vae, optimiser: Optimiser, per_kind: int) -> dict[str, float]:
    """Judge the averaged weights, then put the trained ones back."""
    trained = {name: parameter.detach().clone() for name, parameter in optimiser.parameters.items()}
    _use(vae, optimiser.averaged())
    shares = judge_reconstructions(vae, per_kind, next(vae.parameters()).device)
    _use(vae, trained)
    return shares


@torch.no_grad()
def _use(vae: Vae, weights: dict[str, Tensor]) -> None:
    for name, parameter in vae.named_parameters():
        parameter.copy_(weights[name])


def _matrix_names(vae: Vae) -> frozenset[str]:
    """Every convolution but the first and last of each half."""
    ends = ("conv_in.weight", "conv_out.weight")
    return frozenset(name for name, parameter in vae.named_parameters() if parameter.ndim == 4 and not name.endswith(ends))


@torch.no_grad()
def latent_statistics(vae: Vae, seed: int, num_scenes: int, device: torch.device) -> tuple[float, float]:
    """Return the mean and standard deviation of the unscaled mean latents of training scenes."""
    rng = Random(f"{seed} statistics")
    scenes = [_any_scene(rng, False) for _ in range(num_scenes)]
    means = [vae.encode_moments(to_pixels(draw(scene)[None]).to(device)).chunk(2, dim=1)[0] for scene in scenes]
    latents = torch.cat(means)
    return float(latents.mean()), float(latents.std())


def vae_config(shift: float = 0.0, scale: float = 1.0) -> VaeConfig:
    """The storybook VAE: the FLUX layout at its smallest, with 4 channels; shift and scale come from its latents once it is trained."""
    return VaeConfig(ch=32, ch_mult=(1, 1, 2, 2), num_res_blocks=1, z_channels=4, scale_factor=scale, shift_factor=shift)
