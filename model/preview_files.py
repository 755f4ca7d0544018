"""Where a model's preview map is kept: shipped beside the checkpoint, or in a cache under the hash of its VAE, fitted when in neither."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from model.checkpoint_files import VAE_NAME
from model.preview import WINDOW, LatentPreview, fit_preview
from model.safetensors_writer import TensorSource, write_safetensors
from model.vae import Vae

logger = logging.getLogger(__name__)

PREVIEW_NAME = "preview.safetensors"


def load_or_fit_preview(directory: Path, vae: Vae, cache: Path | None) -> LatentPreview:
    """Return the map for the VAE of the model directory; a newly fitted one is put into ``cache``, where that can be written."""
    shipped = read_preview(directory / PREVIEW_NAME, vae)
    if shipped is not None:
        return shipped
    if cache is None:
        return fit_preview(vae)
    kept = cache / f"preview-{_digest(directory / VAE_NAME)}.safetensors"
    cached = read_preview(kept, vae)
    if cached is not None:
        return cached
    fitted = fit_preview(vae)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_preview(kept, fitted)
    except OSError as error:
        logger.warning("the preview map is fitted anew at every start: %s cannot be written (%s)", cache, error.strerror)
    return fitted


def write_preview(path: Path, preview: LatentPreview) -> None:
    """Write the map to the file ``path``."""
    tensors = {"weight": preview.weight, "bias": preview.bias}
    write_safetensors(path, [_source(name, values) for name, values in tensors.items()])


def read_preview(path: Path, vae: Vae) -> LatentPreview | None:
    """Return the map in the file ``path``; None when there is none, or none that fits the VAE."""
    try:
        with safe_open(path, framework="pt") as file:
            if set(file.keys()) != {"weight", "bias"}:
                return None
            preview = LatentPreview(file.get_tensor("weight").float(), file.get_tensor("bias").float())
    except (OSError, SafetensorError):
        return None
    block = vae.config.downsample
    shapes = (3, block, block, vae.config.z_channels * WINDOW * WINDOW), (3, block, block)
    return preview if (preview.weight.shape, preview.bias.shape) == shapes else None


def _source(name: str, values: torch.Tensor) -> TensorSource:
    return TensorSource(name, torch.float32, tuple(values.shape), lambda: values)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
