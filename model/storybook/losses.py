"""One batch through the model: rectified-flow error on the noisy latents, cross-entropy on the words and switches to be written.

The model is `model.bagel.Bagel` itself; attention is dense over each padded episode, with the mask of `model.storybook.packing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.bagel import Bagel, PackedTokens
from model.latents import grid_position_ids
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


def compute_losses(
    model: Bagel, bank: Bank, batch: Batch, geometry: Geometry, generator: torch.Generator, shift: float = TRAINING_SHIFT
) -> Losses:
    """Run a batch, already on the model's device, and return its losses. ``generator`` gives all noise, ``shift`` moves its times."""
    noised = add_noise(bank.latents(batch.scenes), batch, generator, shift) if batch.num_gen else None
    hidden = hidden_states(model, bank, batch, geometry, noised, generator)
    num_und_rows = batch.num_episodes * batch.num_und
    flow = words = None
    if noised is not None and batch.num_copies:
        rows = (batch.copy != PADDING).nonzero()[:, 0]
        predicted = model.velocity(hidden[num_und_rows + rows])
        flow = F.mse_loss(predicted.float(), noised.velocity[rows])
    if len(batch.labels):
        words = F.cross_entropy(model.logits(hidden[batch.label_rows]).float(), batch.labels)
    return Losses(flow=flow, words=words)


def hidden_states(
    model: Bagel, bank: Bank, batch: Batch, geometry: Geometry, noised: Noised | None, generator: torch.Generator | None = None
) -> Tensor:
    """Embed every token and run the layers; hidden states in packed order, zeros for padding.

    Without ``generator`` pictures are read clean.
    """
    embedded = model.embed_text(batch.ids)
    if batch.vit_scenes:
        embedded = embedded.index_copy(0, batch.vit_rows, _embed_pictures(model, bank, batch, geometry, generator).to(embedded.dtype))
    real = embedded.index_select(0, batch.und_rows)
    rows, number = batch.und_rows, len(embedded)
    if noised is not None:
        ids = grid_position_ids(*geometry.latent_grid, model.config.latent_table_side, device=model.device)
        latents = model.embed_latents(noised.x_t, noised.timestep, ids[batch.latent_index])
        real = torch.cat([real, latents.index_select(0, batch.gen_rows).to(embedded.dtype)])
        rows, number = torch.cat([rows, number + batch.gen_rows]), number + len(latents)
    positions = batch.positions.index_select(0, rows)
    tokens = PackedTokens(hidden=real, positions=positions, num_und=len(batch.und_rows))
    return to_rows(model(tokens, dense_attention(batch)), rows, number)


def _embed_pictures(model: Bagel, bank: Bank, batch: Batch, geometry: Geometry, generator: torch.Generator | None) -> Tensor:
    pictures = bank.patches([batch.scenes[index] for index in batch.vit_scenes])
    if generator is not None:
        pictures += PIXEL_NOISE * _noise_like(pictures, generator)
    patches = pictures.flatten(0, 1)
    number = len(batch.vit_scenes)
    ids = grid_position_ids(*geometry.vit_grid, model.config.vit.table_side, device=model.device).repeat(number)
    bounds = torch.arange(0, (number + 1) * geometry.num_patches, geometry.num_patches, dtype=torch.int32)
    return model.embed_vit(patches, ids, bounds)


def add_noise(latents: Tensor, batch: Batch, generator: torch.Generator, shift: float = TRAINING_SHIFT) -> Noised:
    """Give each noisy copy its own flow time and noise: ``x_t = (1 - t) x_0 + t noise``, velocity ``noise - x_0`` (spec 6).

    Times are spread evenly over the copies of the batch and shifted. Clean tokens stay at time 0, with a little noise of their own.
    """
    clean = latents[batch.latent_scene, batch.latent_index]
    number = max(1, batch.num_copies)
    device = clean.device
    order = torch.randperm(number, generator=generator, device=device)
    even = (order + torch.rand(number, generator=generator, device=device)) / number
    times = shift * even / (1.0 + (shift - 1.0) * even)
    is_noisy = batch.copy != PADDING
    timestep = torch.where(is_noisy, times[batch.copy.clamp(min=0)], torch.zeros((), device=device))
    noise = _noise_like(clean, generator)
    blur = CONTEXT_NOISE * torch.rand(len(batch.scenes), generator=generator, device=device)[batch.latent_scene]
    noisy = (1.0 - timestep[:, None]) * clean + timestep[:, None] * noise
    return Noised(
        x_t=torch.where(is_noisy[:, None], noisy, clean + blur[:, None] * noise),
        timestep=timestep,
        velocity=noise - clean,
    )


def _noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device)


def dense_attention(batch: Batch) -> Attend:
    """Return attention over each episode of the batch with its mask.

    Written out, not fused: for these short episodes in bfloat16 the fused backward pass takes four times as long on a CPU.
    """
    rows, num_episodes, num_tokens = batch.grid_rows(), batch.num_episodes, batch.num_tokens
    bias = torch.zeros(batch.mask.shape, device=batch.mask.device).masked_fill_(~batch.mask, -torch.inf)[:, None]

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        num_heads, head_dim = q.shape[1:]
        num_groups = k.shape[1]
        per_group = num_heads // num_groups
        grid = (num_episodes, num_tokens, num_groups, -1, head_dim)
        queries, keys, values = (to_rows(x, rows, num_episodes * num_tokens).view(grid) for x in (q * head_dim**-0.5, k, v))
        queries = queries.permute(0, 2, 3, 1, 4).reshape(num_episodes * num_groups, per_group * num_tokens, head_dim)
        keys, values = (x.transpose(1, 2).reshape(num_episodes * num_groups, num_tokens, head_dim) for x in (keys, values))
        scores = (queries @ keys.mT).view(num_episodes, num_heads, num_tokens, num_tokens)
        weights = torch.softmax(scores + bias.to(scores.dtype), dim=-1).view(*queries.shape[:2], num_tokens)
        out = (weights @ values).view(num_episodes, num_groups, per_group, num_tokens, head_dim)
        return from_rows(out.permute(0, 3, 1, 2, 4).reshape(-1, num_heads, head_dim), rows)

    def attend_without_autocast(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            return attend(layer, q, k, v)

    return attend_without_autocast


def to_rows(x: Tensor, rows: Tensor, number: int) -> Tensor:
    """Put each of ``x`` into its row of ``number`` rows; the others are zero."""
    placed: Tensor = _ToRows.apply(x, rows, number)  # type: ignore[no-untyped-call]
    return placed


def from_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Take distinct ``rows`` of ``x``."""
    taken: Tensor = _FromRows.apply(x, rows)  # type: ignore[no-untyped-call]
    return taken


class _ToRows(torch.autograd.Function):
    """Rows are distinct, so that each direction's backward pass is a copy in the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, number: int) -> Tensor:
        ctx.save_for_backward(rows)
        return x.new_zeros(number, *x.shape[1:]).index_copy_(0, rows, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return gradients[0].index_select(0, rows), None, None


class _FromRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = x.shape
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return gradients[0].new_zeros(ctx.shape).index_copy_(0, rows, gradients[0]), None
