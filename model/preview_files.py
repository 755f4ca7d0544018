"""Where a model's preview map is kept: beside the checkpoint, or in a cache, under the hash of the VAE; fitted when in neither."""

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


def load_or_fit_preview(directory: Path, vae: Vae, cache: Path | None) -> LatentPreview:
    """Return the map for the VAE of the model directory; a newly fitted one is put into ``cache``, where that can be written."""
    name = preview_name(directory)
    for place in (directory, cache):
        kept = None if place is None else read_preview(place / name, vae)
        if kept is not None:
            return kept
    fitted = fit_preview(vae)
    if cache is not None:
        _keep(cache / name, fitted)
    return fitted


def preview_name(directory: Path) -> str:
    """Return what the map of the directory's VAE is called: a map for another VAE is never taken for it."""
    with (directory / VAE_NAME).open("rb") as file:
        return f"preview-{hashlib.file_digest(file, 'sha256').hexdigest()[:32]}.safetensors"


def _keep(path: Path, preview: LatentPreview) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_preview(path, preview)
    except OSError as error:
        logger.warning("the preview map is fitted anew at every start: %s cannot be written (%s)", path, error.strerror)


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
