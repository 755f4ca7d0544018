"""One batch through the model: rectified-flow error on the noisy latents, cross-entropy on the words and switches to be written.

The model is `model.bagel.Bagel` itself; attention is dense over each padded episode, with the mask of `model.storybook.packing`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.bagel import Bagel, PackedTokens
from model.latents import latent_position_ids, vit_position_ids
from model.storybook.bank import Bank
from model.storybook.packing import PADDING, Batch, Geometry
from model.transformer import Attend

TRAINING_SHIFT = 2.0
"""Shift of the training's flow times towards noise, where the words decide (spec 6.1 with a uniform u)."""
CONTEXT_NOISE = 0.1
"""Largest deviation of the noise on clean latents in the context: drawn pictures are not as clean as the scenes."""
PIXEL_NOISE = 0.04
"""Deviation of the noise on ViT patches, in units of [-1, 1]."""


@dataclass(frozen=True, slots=True)
class Losses:
    """``flow``: mean squared velocity error, or None without a drawn picture; ``words``: mean cross-entropy, or None without labels."""

    flow: Tensor | None
    words: Tensor | None

    def total(self, words_weight: float) -> Tensor:
        terms = [term for term in (self.flow, None if self.words is None else words_weight * self.words) if term is not None]
        return torch.stack(terms).sum()


@dataclass(frozen=True, slots=True)
class Noised:
    """Latent tokens ``[rows, latent_dim]`` at their flow time ``[rows]``, and the velocity they should be given."""

    x_t: Tensor
    timestep: Tensor
    velocity: Tensor


def compute_losses(model: Bagel, bank: Bank, batch: Batch, geometry: Geometry) -> Losses:
    """Run a batch, already on the model's device, and return its losses."""
    noised = add_noise(bank.latents(batch.scenes), batch) if batch.num_gen else None
    hidden = hidden_states(model, bank, batch, geometry, noised)
    num_und_rows = batch.num_episodes * batch.num_und
    flow = words = None
    if noised is not None and batch.num_copies:
        rows = (batch.copy != PADDING).nonzero()[:, 0]
        predicted = model.velocity(hidden[num_und_rows + rows])
        flow = F.mse_loss(predicted.float(), noised.velocity[rows])
    if len(batch.labels):
        words = F.cross_entropy(model.logits(hidden[batch.label_rows]).float(), batch.labels)
    return Losses(flow=flow, words=words)


def hidden_states(model: Bagel, bank: Bank, batch: Batch, geometry: Geometry, noised: Noised | None) -> Tensor:
    """Embed every token and run the layers; hidden states in packed order."""
    embedded = model.embed_text(batch.ids)
    if batch.vit_scenes:
        embedded = embedded.index_copy(0, batch.vit_rows, _embed_pictures(model, bank, batch, geometry).to(embedded.dtype))
    if noised is not None:
        ids = latent_position_ids(*geometry.latent_grid, model.config.latent_table_side, device=model.device)
        latents = model.embed_latents(noised.x_t, noised.timestep, ids[batch.latent_index])
        embedded = torch.cat([embedded, latents.to(embedded.dtype)])
    tokens = PackedTokens(hidden=embedded, positions=batch.positions, num_und=batch.num_episodes * batch.num_und)
    hidden: Tensor = model(tokens, dense_attention(batch))
    return hidden


def _embed_pictures(model: Bagel, bank: Bank, batch: Batch, geometry: Geometry) -> Tensor:
    pictures = bank.patches([batch.scenes[index] for index in batch.vit_scenes])
    patches = (pictures + PIXEL_NOISE * torch.randn_like(pictures)).flatten(0, 1)
    number = len(batch.vit_scenes)
    ids = vit_position_ids(*geometry.vit_grid, model.config.vit.table_side, device=model.device).repeat(number)
    bounds = torch.arange(0, (number + 1) * geometry.num_patches, geometry.num_patches, dtype=torch.int32)
    return model.embed_vit(patches, ids, bounds)


def add_noise(latents: Tensor, batch: Batch) -> Noised:
    """Give each noisy copy its own flow time and noise: ``x_t = (1 - t) x_0 + t noise``, velocity ``noise - x_0`` (spec 6).

    Times are spread evenly over the copies of the batch and shifted. Clean tokens stay at time 0, with a little noise of their own.
    """
    clean = latents[batch.latent_scene, batch.latent_index]
    number = max(1, batch.num_copies)
    device = clean.device
    even = (torch.randperm(number, device=device) + torch.rand(number, device=device)) / number
    times = TRAINING_SHIFT * even / (1.0 + (TRAINING_SHIFT - 1.0) * even)
    is_noisy = batch.copy != PADDING
    timestep = torch.where(is_noisy, times[batch.copy.clamp(min=0)], torch.zeros((), device=device))
    noise = torch.randn_like(clean)
    blur = CONTEXT_NOISE * torch.rand(len(batch.scenes), device=device)[batch.latent_scene]
    noisy = (1.0 - timestep[:, None]) * clean + timestep[:, None] * noise
    return Noised(
        x_t=torch.where(is_noisy[:, None], noisy, clean + blur[:, None] * noise),
        timestep=timestep,
        velocity=noise - clean,
    )


def dense_attention(batch: Batch) -> Attend:
    """Return attention over each episode of the batch with its mask; queries of padding see padding."""
    mask = batch.mask[:, None]
    num_und_rows = batch.num_episodes * batch.num_und

    def by_episode(x: Tensor) -> Tensor:
        und = x[:num_und_rows].unflatten(0, (batch.num_episodes, batch.num_und))
        gen = x[num_und_rows:].unflatten(0, (batch.num_episodes, batch.num_gen))
        return torch.cat([und, gen], dim=1).transpose(1, 2)

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        group = q.shape[1] // k.shape[1]
        keys, values = (by_episode(x).repeat_interleave(group, dim=1) for x in (k, v))
        out = F.scaled_dot_product_attention(by_episode(q), keys, values, attn_mask=mask).transpose(1, 2)
        return torch.cat([out[:, : batch.num_und].flatten(0, 1), out[:, batch.num_und :].flatten(0, 1)])

    return attend
