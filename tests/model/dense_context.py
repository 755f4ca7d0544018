"""A context in the plainest form: concatenated keys and values per layer, dense boolean masks, one segment at a time, float32.

Drives `Bagel.forward` the way the specification describes segments (5.2), with none of the engine's machinery.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.bagel import Bagel, PackedTokens
from model.latents import grid_position_ids, patchify, pixels_from_u8, vit_patches
from model.transformer import Streams


@dataclass(frozen=True)
class Segment:
    """Embedded tokens in row order.

    Attributes:
        hidden: ``[T, D]``; is_gen: ``[T]`` bool, which tokens the generation expert handles.
        is_text: causal, one position a token; else bidirectional and one position in all.
    """

    hidden: Tensor
    is_gen: Tensor
    is_text: bool

    @property
    def num_positions(self) -> int:
        return len(self.hidden) if self.is_text else 1


@dataclass
class DenseContext:
    """Keys and values ``[kv_len, Hk, d]`` of every layer, and the next rotary position."""

    keys: list[Tensor]
    values: list[Tensor]
    next_rope: int = 0
    layer_hidden: list[Tensor] = field(default_factory=list)
    """Residual stream after each layer of the last segment run, in row order."""

    @classmethod
    def empty(cls, model: Bagel) -> DenseContext:
        llm = model.config.llm
        nothing = torch.empty(0, llm.num_kv_heads, llm.head_dim)
        return cls([nothing] * llm.num_layers, [nothing] * llm.num_layers)

    @property
    def kv_len(self) -> int:
        return len(self.keys[0])

    def copy(self) -> DenseContext:
        return DenseContext(list(self.keys), list(self.values), self.next_rope)

    def append(self, model: Bagel, segment: Segment) -> Tensor:
        """Run a segment and keep it. Returns hidden states after the final norm, in row order."""
        keys, values = list(self.keys), list(self.values)
        hidden = self._run(model, segment, keys, values)
        self.keys, self.values = keys, values
        self.next_rope += segment.num_positions
        return hidden

    def look(self, model: Bagel, segment: Segment) -> Tensor:
        """Run a segment without keeping it, as a denoise step does."""
        return self._run(model, segment, list(self.keys), list(self.values))

    def _run(self, model: Bagel, segment: Segment, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        """Run a segment in the model's packed order; its keys and values are added to the lists, in row order."""
        packed_to_row = torch.argsort(segment.is_gen.int(), stable=True)
        row_to_packed = torch.argsort(packed_to_row)
        num_tokens = len(segment.hidden)

        def attend(layer_index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys[layer_index] = torch.cat([keys[layer_index], k[row_to_packed]])
            values[layer_index] = torch.cat([values[layer_index], v[row_to_packed]])
            mask = _visible(num_tokens, len(keys[layer_index]), segment.is_text)
            return masked_attention(q[row_to_packed], keys[layer_index], values[layer_index], mask)[packed_to_row]

        offsets = torch.arange(num_tokens) if segment.is_text else torch.zeros(num_tokens, dtype=torch.int64)
        tokens = PackedTokens(
            hidden=segment.hidden[packed_to_row],
            positions=(self.next_rope + offsets)[packed_to_row],
            num_und=int((~segment.is_gen).sum()),
        )
        with recorded_layers(model) as layers:
            hidden = model.forward(tokens, attend)
        self.layer_hidden = [layer[row_to_packed] for layer in layers]
        return hidden[row_to_packed]


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention ``[T, Hq, d]`` over ``[S, Hk, d]`` where ``mask [T, S]`` is True."""
    group = q.shape[1] // k.shape[1]
    scores = torch.einsum("thd,shd->hts", q, k.repeat_interleave(group, dim=1)) / math.sqrt(q.shape[2])
    weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    return torch.einsum("hts,shd->thd", weights, v.repeat_interleave(group, dim=1))


def text_segment(model: Bagel, ids: list[int]) -> Segment:
    """Embed token ids, BOS and EOS included by the caller."""
    return Segment(model.embed_text(torch.tensor(ids)), torch.zeros(len(ids), dtype=torch.bool), is_text=True)


def vit_segment(model: Bagel, rgb: Tensor, markers: tuple[int, int]) -> Segment:
    """Embed an 8-bit picture ``[H, W, 3]`` as the ViT sees it, between begin- and end-of-image."""
    vit = model.config.vit
    rows, columns = rgb.shape[0] // vit.patch_size, rgb.shape[1] // vit.patch_size
    embedded = model.embed_vit(
        vit_patches(rgb, vit.patch_size),
        grid_position_ids(rows, columns, vit.table_side),
        torch.tensor([0, rows * columns], dtype=torch.int32),
    )
    return _marked(model, embedded, markers, is_gen=False)


def clean_segment(model: Bagel, rgb: Tensor, markers: tuple[int, int]) -> Segment:
    """Encode an 8-bit picture with the VAE and embed its mean latent at t = 0."""
    tokens = patchify(model.vae.encode(pixels_from_u8(rgb))[0], model.config.latent_patch_size)
    return latent_segment(model, tokens, 0.0, (rgb.shape[0], rgb.shape[1]), markers)


def latent_segment(model: Bagel, x_t: Tensor, t: float, image_size: tuple[int, int], markers: tuple[int, int]) -> Segment:
    """Embed latent tokens ``x_t [n, p*p*C]`` at flow time ``t`` for a picture of ``(height, width)`` pixels."""
    stride = model.config.latent_stride
    ids = grid_position_ids(image_size[0] // stride, image_size[1] // stride, model.config.latent_table_side)
    return _marked(model, model.embed_latents(x_t, torch.full((len(x_t),), t), ids), markers, is_gen=True)


@contextmanager
def recorded_layers(model: Bagel) -> Iterator[list[Tensor]]:
    """Collect the residual stream after each layer, in packed order."""
    recorded: list[Tensor] = []

    def record(module: torch.nn.Module, arguments: tuple[object, ...], streams: Streams) -> None:
        recorded.append(streams.packed())

    handles = [layer.register_forward_hook(record) for layer in model.layers]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _visible(num_queries: int, num_keys: int, is_causal: bool) -> Tensor:
    mask = torch.ones(num_queries, num_keys, dtype=torch.bool)
    return mask.tril(num_keys - num_queries) if is_causal else mask


def _marked(model: Bagel, embedded: Tensor, markers: tuple[int, int], is_gen: bool) -> Segment:
    begin, end = model.embed_text(torch.tensor(markers)).split(1)
    flags = torch.full((len(embedded) + 2,), is_gen)
    flags[0] = flags[-1] = False
    return Segment(torch.cat([begin, embedded, end]), flags, is_text=False)
