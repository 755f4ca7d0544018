"""Finds the device that an option names, for the engine and for ``plait doctor``. Imports torch."""

from __future__ import annotations

import torch

from server.engine.options import NoSuchDevice


def chosen_device(name: str) -> torch.device:
    """Return the device that ``--device`` names; "auto" is a GPU where there is one.

    Raises:
        NoSuchDevice: a GPU is asked for where none can be used, or another than there are.
    """
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    device = torch.device(name)
    if device.type != "cuda":
        return device
    if not has_gpu:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise NoSuchDevice(f"PyTorch {torch.__version__} ({built}) sees no GPU")
    if (device.index or 0) >= torch.cuda.device_count():
        raise NoSuchDevice(f"{name} is asked for, and the number of GPUs is {torch.cuda.device_count()}, counted from cuda:0")
    return device
