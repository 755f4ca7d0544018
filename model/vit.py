"""The SigLIP image encoder at native resolution, and the connector that turns its output into language-model embeddings.

Pictures of different sizes are packed one after another; attention never leaves a picture. Spec section 3. BAGEL:
modeling/bagel/siglip_navit.py. Projections of one layer that read the same input are stored as one weight (`model.weights` fuses them).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.linear import linear
from kernels.picture_attention import picture_attention
from model.sizes import VitConfig
from model.stepwise import Steps, run_through


class Vit(nn.Module):
    """Patches ``[n, patch_dim]`` of packed pictures to features ``[n, hidden]`` after the last norm."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.eps = config.layer_norm_eps
        self.patch_weight = nn.Parameter(torch.empty(hidden, config.patch_dim))
        self.patch_bias = nn.Parameter(torch.empty(hidden))
        self.position_embedding = nn.Parameter(torch.empty(config.table_side**2, hidden))
        self.layers = nn.ModuleList(VitLayer(config) for _ in range(config.num_layers))
        self.norm_weight = nn.Parameter(torch.empty(hidden))
        self.norm_bias = nn.Parameter(torch.empty(hidden))

    def forward(self, patches: Tensor, position_ids: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Encode; ``cu_seqlens`` int32 ``[num_images + 1]`` bounds each picture's patches. Best on the host, which reads it."""
        return run_through(self.forward_in_steps(patches, position_ids, cu_seqlens))

    def forward_in_steps(self, patches: Tensor, position_ids: Tensor, cu_seqlens: Tensor) -> Steps[Tensor]:
        """Do the same, interruptible after every layer."""
        x = linear(patches.to(self.patch_weight.dtype), self.patch_weight, self.patch_bias)
        x = x + F.embedding(position_ids, self.position_embedding)
        lengths = cu_seqlens.diff().tolist()
        for layer in self.layers:
            x = layer(x, lengths)
            yield
        return F.layer_norm(x, x.shape[-1:], self.norm_weight, self.norm_bias, self.eps)


class VitLayer(nn.Module):
    """Pre-norm attention and GELU feed-forward, all with biases."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        hidden, wide = config.hidden_size, config.intermediate_size
        self.num_heads = config.num_heads
        self.eps = config.layer_norm_eps
        self.norm1_weight = nn.Parameter(torch.empty(hidden))
        self.norm1_bias = nn.Parameter(torch.empty(hidden))
        self.qkv_weight = nn.Parameter(torch.empty(3 * hidden, hidden))
        self.qkv_bias = nn.Parameter(torch.empty(3 * hidden))
        self.out_weight = nn.Parameter(torch.empty(hidden, hidden))
        self.out_bias = nn.Parameter(torch.empty(hidden))
        self.norm2_weight = nn.Parameter(torch.empty(hidden))
        self.norm2_bias = nn.Parameter(torch.empty(hidden))
        self.fc1_weight = nn.Parameter(torch.empty(wide, hidden))
        self.fc1_bias = nn.Parameter(torch.empty(wide))
        self.fc2_weight = nn.Parameter(torch.empty(hidden, wide))
        self.fc2_bias = nn.Parameter(torch.empty(hidden))

    def forward(self, x: Tensor, lengths: list[int]) -> Tensor:
        """Run the layer over packed patches ``[n, hidden]``, ``lengths`` of them a picture."""
        h = F.layer_norm(x, x.shape[-1:], self.norm1_weight, self.norm1_bias, self.eps)
        x = x + linear(self._attend(linear(h, self.qkv_weight, self.qkv_bias), lengths), self.out_weight, self.out_bias)
        h = F.layer_norm(x, x.shape[-1:], self.norm2_weight, self.norm2_bias, self.eps)
        h = F.gelu(linear(h, self.fc1_weight, self.fc1_bias), approximate="tanh")
        return x + linear(h, self.fc2_weight, self.fc2_bias)

    def _attend(self, qkv: Tensor, lengths: list[int]) -> Tensor:
        """Full attention inside each picture: ``[n, 3 * hidden] -> [n, hidden]``."""
        q, k, v = qkv.view(len(qkv), 3, self.num_heads, -1).unbind(1)
        return picture_attention(q, k, v, lengths).flatten(1)


class Connector(nn.Module):
    """Two layers from the ViT's width to the language model's."""

    def __init__(self, vit_hidden: int, hidden: int) -> None:
        super().__init__()
        self.fc1_weight = nn.Parameter(torch.empty(hidden, vit_hidden))
        self.fc1_bias = nn.Parameter(torch.empty(hidden))
        self.fc2_weight = nn.Parameter(torch.empty(hidden, hidden))
        self.fc2_bias = nn.Parameter(torch.empty(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``[n, vit_hidden]`` to ``[n, hidden]``."""
        h = F.gelu(linear(x, self.fc1_weight, self.fc1_bias), approximate="tanh")
        return linear(h, self.fc2_weight, self.fc2_bias)
