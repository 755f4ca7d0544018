"""Looking at a model while it trains: held-out prompts drawn and judged, held-out captions written. Plain and slow: no cache."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.bagel import Bagel
from model.flow import schedule
from model.latents import u8_from_pixels, unpatchify
from model.storybook.bank import Bank
from model.storybook.captions import EVERYTHING, describe
from model.storybook.chat import caption_exchange
from model.storybook.episodes import Episode, Next, PicturePart, Role, TextPart
from model.storybook.judge import read
from model.storybook.losses import Noised, hidden_states
from model.storybook.packing import PADDING, Batch, Packer
from model.storybook.sampling import SceneKind, held_out_scene
from model.storybook.scenes import Scene

NUM_TIMESTEPS = 13
SHIFT = 2.0
TEXT_SCALE = 2.0


class Prober:
    """Draws and reads with the weights that a model has at the moment."""

    def __init__(self, model: Bagel, bank: Bank, packer: Packer) -> None:
        self._model = model
        self._bank = bank
        self._packer = Packer(packer.tokenizer, packer.geometry, num_copies=1, drop_last_text=0.0, drop_everything=0.0)

    @torch.no_grad()
    def drawn_right(self, per_kind: int, seed: int) -> dict[str, float]:
        """Return, per kind of scene, the share of fully described held-out scenes that are drawn right."""
        rng = Random(f"{seed} drawn")
        shares = {}
        for kind in SceneKind:
            scenes = [held_out_scene(rng, kind) for _ in range(per_kind)]
            pictures = self.draw([describe(scene, EVERYTHING, rng) for scene in scenes], scenes, seed)
            right = [read(picture).shows(scene) for picture, scene in zip(pictures, scenes, strict=True)]
            shares[f"drawn_{kind.value}"] = sum(right) / per_kind
        return shares

    @torch.no_grad()
    def captioned_right(self, number: int, seed: int) -> float:
        """Return the share of held-out scenes whose caption, greedily written, is exact."""
        rng = Random(f"{seed} captions")
        episodes: list[Episode] = []
        for _ in range(number):
            scene = held_out_scene(rng, rng.choice(tuple(SceneKind)))
            exchange = caption_exchange(scene, rng)
            answer = TextPart(exchange.answer, is_written=True, then=Next.END)
            episodes.append((PicturePart(scene, Role.READ), TextPart(exchange.question), answer))
        batch = self._packer.pack(episodes, rng).to(self._model.device)
        hidden = hidden_states(self._model, self._bank, batch, self._packer.geometry, None)
        is_wrong = self._model.logits(hidden[batch.label_rows]).argmax(dim=1) != batch.labels
        wrong_episodes = (batch.label_rows[is_wrong] // batch.num_und).unique()
        return 1.0 - len(wrong_episodes) / number

    @torch.no_grad()
    def draw(self, prompts: list[str], formats: list[Scene], seed: int) -> list[npt.NDArray[np.uint8]]:
        """Draw a picture for each prompt with text guidance; ``formats`` are any scenes of the wanted format."""
        pictures = [PicturePart(scene, Role.DRAWN) for scene in formats]
        rng = Random(seed)
        told = self._packer.pack([(TextPart(words), part) for words, part in zip(prompts, pictures, strict=True)], rng)
        untold = self._packer.pack([(part,) for part in pictures], rng)
        generator = torch.Generator().manual_seed(seed)
        geometry, device = self._packer.geometry, self._model.device
        x = torch.randn(len(prompts), geometry.num_latents, self._model.config.latent_dim, generator=generator).to(device)
        told, untold = told.to(device), untold.to(device)
        for t, dt in zip(*schedule(NUM_TIMESTEPS, SHIFT), strict=True):
            with_words, without = (self._velocity(batch, x, float(t)) for batch in (told, untold))
            x = x - float(dt) * (without + TEXT_SCALE * (with_words - without))
        return [self._decode(tokens) for tokens in x]

    def _velocity(self, batch: Batch, x: Tensor, t: float) -> Tensor:
        """Return the velocity of every picture ``[n, num_latents, p*p*C]`` at time ``t``."""
        rows = (batch.copy != PADDING).nonzero()[:, 0]
        timestep = torch.full((len(batch.copy),), t, device=x.device)
        noised = Noised(x_t=x.flatten(0, 1), timestep=timestep, velocity=x)
        hidden = hidden_states(self._model, self._bank, batch, self._packer.geometry, noised)
        return self._model.velocity(hidden[batch.num_episodes * batch.num_und + rows]).float().view_as(x)

    def _decode(self, tokens: Tensor) -> npt.NDArray[np.uint8]:
        latent = unpatchify(tokens, *self._packer.geometry.latent_grid, self._model.config.latent_patch_size)
        return np.asarray(u8_from_pixels(self._model.vae.decode(latent[None])).cpu().numpy())
