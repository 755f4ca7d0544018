"""How finely a GPU computes in float32."""

from __future__ import annotations

import torch


def choose_precision(dtype: torch.dtype) -> None:
    """Let this process's convolutions round to TF32 where a model of ``dtype`` is not float32; PyTorch's own way is to let all of them.

    Only the VAE has convolutions, and its weights are float32 in every model. TF32 has three bits more than bfloat16, in which the
    reference's scripts run them on a GPU, and which moves decoded pixels by half an 8-bit step (rms, on a tiny VAE): TF32 moves them by an
    eighth of that. Who asks for a float32 model asks for its digits: there convolutions are float32, as matrix products are anyway.
    """
    torch.backends.cudnn.allow_tf32 = dtype is not torch.float32
