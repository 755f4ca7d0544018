"""BAGEL as mathematics: embeddings in, hidden states out, and the heads on top.

A pass is a packed batch of tokens sorted by expert; `Bagel.forward` walks the layers and leaves attention, and with it pages, masks and
requests, to the `Attend` it is given. Weights come from `model.weights`. Specification sections 2 to 4. BAGEL: modeling/bagel/bagel.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.expert_layers import ExpertStack
from kernels.linear import linear
from kernels.rms_norm import rms_norm
from model.config import BagelConfig
from model.stepwise import UNCUT, Cut, Steps, run_through
from model.transformer import Attend, AttendsStacks, Expert, MotLayer, Rotation, Streams
from model.vae import Vae
from model.vit import Connector, Vit

__all__ = ["Attend", "Bagel", "PackedTokens"]

TIME_FREQUENCIES = 128
"""Frequencies of the time embedding: 256 sinusoids (spec 4.5)."""

MAX_PERIOD = 10000.0


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """The tokens of one pass, understanding tokens first.

    Attributes:
        hidden: ``[num_tokens, hidden_size]`` embeddings.
        positions: ``[num_tokens]`` int64 rotary positions.
        num_und: how many leading tokens go through the understanding expert.
    """

    hidden: Tensor
    positions: Tensor
    num_und: int


class Bagel(nn.Module):
    """A unified multimodal model. Built uninitialised: `model.weights.load_bagel` fills it."""

    def __init__(self, config: BagelConfig) -> None:
        super().__init__()
        llm = config.llm
        hidden = llm.hidden_size
        self.config = config
        self.token_embedding = nn.Parameter(torch.empty(llm.vocab_size, hidden))
        self.layers = nn.ModuleList(MotLayer(llm) for _ in range(llm.num_layers))
        self.und_norm = nn.Parameter(torch.empty(hidden))
        self.gen_norm = nn.Parameter(torch.empty(hidden))
        self.lm_head = nn.Parameter(torch.empty(llm.vocab_size, hidden))
        self.time_embedder = TimeEmbedder(hidden)
        self.latent_in_weight = nn.Parameter(torch.empty(hidden, config.latent_dim))
        self.latent_in_bias = nn.Parameter(torch.empty(hidden))
        self.velocity_weight = nn.Parameter(torch.empty(config.latent_dim, hidden))
        self.velocity_bias = nn.Parameter(torch.empty(config.latent_dim))
        self.latent_positions = nn.Parameter(torch.empty(config.latent_table_side**2, hidden), requires_grad=False)
        self.vit = Vit(config.vit)
        self.connector = Connector(config.vit.hidden_size, hidden)
        self.vit_positions = nn.Parameter(torch.empty(config.vit.table_side**2, hidden), requires_grad=False)
        self.vae = Vae(config.vae)

    def forward(self, tokens: PackedTokens, attend: Attend) -> Tensor:
        """Run every layer over the packed tokens and return hidden states ``[num_tokens, hidden]`` after the final norms."""
        return run_through(self.forward_in_steps(tokens, attend))

    def forward_in_steps(self, tokens: PackedTokens, attend: Attend, cut: Cut = UNCUT) -> Steps[Tensor]:
        """Do the same, interruptible after every layer, and with ``cut`` within it."""
        rotation = Rotation.at(tokens.positions, self.config.llm, tokens.hidden.dtype)
        if tokens.num_und == len(tokens.hidden) and isinstance(attend, AttendsStacks):
            hidden = attend.run_layers(self.und_stack, tokens.hidden, rotation)
            if hidden is not None:
                return hidden
        rotations = rotation.split(tokens.num_und)
        streams = Streams.split(tokens.hidden, tokens.num_und)
        for layer_index, layer in enumerate(self.mot_layers):
            if cut == UNCUT:
                streams = layer(layer_index, streams, rotations, attend)
            else:
                streams = yield from layer.forward_in_steps(layer_index, streams, rotations, attend, cut)
            yield
        return self._final_norm(streams).packed()

    @cached_property
    def und_stack(self) -> ExpertStack:
        """The understanding expert's weights, layer by layer, and its final norm."""
        return ExpertStack([layer.und.weights for layer in self.mot_layers], self.und_norm)

    @property
    def experts(self) -> list[Expert]:
        """Both experts of every layer."""
        return [expert for layer in self.mot_layers for expert in (layer.und, layer.gen)]

    @cached_property
    def mot_layers(self) -> list[MotLayer]:
        """The layers by their type, which a module list does not know."""
        return [layer for layer in self.layers if isinstance(layer, MotLayer)]

    def embed_text(self, ids: Tensor) -> Tensor:
        """Embed token ids int64 ``[T]``, also begin- and end-of-image, as ``[T, hidden]``."""
        return F.embedding(ids, self.token_embedding)

    def embed_latents(self, x_t: Tensor, timestep: Tensor, position_ids: Tensor) -> Tensor:
        """Embed latent tokens as ``[N, hidden]``: projection, plus time, plus place (spec 4.5).

        ``x_t [N, p*p*C]`` float32; ``timestep [N]`` float32 in [0, 1], 0 for clean latents; ``position_ids [N]`` int64.
        """
        projected = linear(x_t.to(self.dtype), self.latent_in_weight, self.latent_in_bias)
        return projected + self.embed_timesteps(timestep) + F.embedding(position_ids, self.latent_positions)

    def embed_timesteps(self, timestep: Tensor) -> Tensor:
        """Embed each token's flow time float32 ``[N]`` as ``[N, hidden]``.

        The tokens of one picture share a time, so on a CPU each run of equal times is embedded once; elsewhere finding the runs would
        wait for the device.
        """
        if timestep.device.type != "cpu":
            return self._time(timestep)
        distinct, index = torch.unique_consecutive(timestep, return_inverse=True)
        return self._time(distinct)[index]

    def embed_vit(self, patches: Tensor, position_ids: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Embed the ViT patches ``[N, patch_dim]`` of packed pictures as ``[N, hidden]``; ``cu_seqlens`` int32 ``[num_images + 1]``."""
        return run_through(self.embed_vit_in_steps(patches, position_ids, cu_seqlens))

    def embed_vit_in_steps(self, patches: Tensor, position_ids: Tensor, cu_seqlens: Tensor) -> Steps[Tensor]:
        """Do the same, interruptible after every layer."""
        encoded = yield from self.vit.forward_in_steps(patches, position_ids, cu_seqlens)
        features: Tensor = self.connector(encoded)
        return features + F.embedding(position_ids, self.vit_positions)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return scores ``[R, vocab_size]`` of the next token after each of ``hidden [R, hidden]``, in the model's dtype."""
        return linear(hidden, self.lm_head, None)

    def velocity(self, hidden: Tensor) -> Tensor:
        """Return the velocity ``[N, p*p*C]`` of each latent token, from data towards noise, in the model's dtype."""
        return linear(hidden, self.velocity_weight, self.velocity_bias)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of every weight but the VAE's."""
        return self.token_embedding.dtype

    @property
    def device(self) -> torch.device:
        return self.token_embedding.device

    def _time(self, timestep: Tensor) -> Tensor:
        embedded: Tensor = self.time_embedder(timestep)
        return embedded

    def _final_norm(self, streams: Streams) -> Streams:
        eps = self.config.llm.rms_norm_eps
        return Streams(
            rms_norm(streams.und, self.und_norm, eps) if len(streams.und) else streams.und,
            rms_norm(streams.gen, self.gen_norm, eps) if len(streams.gen) else streams.gen,
        )


class TimeEmbedder(nn.Module):
    """Sinusoids of the flow time in float32, then two layers in the model's dtype (spec 4.5)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1_weight = nn.Parameter(torch.empty(hidden, 2 * TIME_FREQUENCIES))
        self.fc1_bias = nn.Parameter(torch.empty(hidden))
        self.fc2_weight = nn.Parameter(torch.empty(hidden, hidden))
        self.fc2_bias = nn.Parameter(torch.empty(hidden))

    def forward(self, timestep: Tensor) -> Tensor:
        """Embed times float32 ``[N]``, in [0, 1] as they are, as ``[N, hidden]``."""
        index = torch.arange(TIME_FREQUENCIES, dtype=torch.float32, device=timestep.device)
        angles = timestep[:, None].float() * torch.exp(-math.log(MAX_PERIOD) * index / TIME_FREQUENCIES)
        sinusoids = torch.cat([angles.cos(), angles.sin()], dim=1).to(self.fc1_weight.dtype)
        h = linear(sinusoids, self.fc1_weight, self.fc1_bias).float()
        # Written out: `F.silu` takes another way through the last few values, whose bits would depend on how many times there are.
        activated = (h / (1.0 + torch.exp(-h))).to(self.fc2_weight.dtype)
        return linear(activated, self.fc2_weight, self.fc2_bias)
