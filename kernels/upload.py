"""What the host has made on its way to the device, without a wait for it."""

from __future__ import annotations

import torch


def upload_tensor(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the host on ``device``: behind the work that it has been given, and the host goes on. On a CPU it is the same one.

    The copy leaves from pinned memory; from any other CUDA may wait for the device first.
    """
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)
