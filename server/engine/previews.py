"""Rough pictures of images under way, painted beside the step without making it wait.

On a GPU a preview is copied to the host behind the step's own work and handed over with the results of the step that finds it there,
at the latest the one that finishes the image: decoding that waits for the device anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.latents import u8_from_pixels, unpatchify
from model.preview import LatentPreview
from server.engine.batch import DenoiseStep, PaintedPreview
from server.messages import Picture


@dataclass(frozen=True, slots=True)
class _Pending:
    """A preview on its way to the host: 8-bit pixels ``[height, width, 3]``, there when ``copied`` has happened."""

    sequence_id: int
    preview: int
    u8: torch.Tensor
    copied: torch.cuda.Event | None


class PreviewPainter:
    """Paints what an image would be if its present velocity were right: x_0 = x_t - t v (spec 6.1 solved for t = 0)."""

    def __init__(self, preview: LatentPreview, latent_stride: int, latent_patch_size: int) -> None:
        self._preview = preview
        self._stride = latent_stride
        self._patch_size = latent_patch_size
        self._reduced: dict[int, LatentPreview] = {}
        self._pending: list[_Pending] = []

    def start(self, step: DenoiseStep, x_t: torch.Tensor, velocity: torch.Tensor) -> None:
        """Begin the preview that ``step`` asks for; ``x_t`` and ``velocity`` are ``[num_tokens, channels]``."""
        assert step.preview is not None
        rows, columns = step.params.height // self._stride, step.params.width // self._stride
        latent = unpatchify(x_t - velocity * step.timestep, rows, columns, self._patch_size)
        u8 = u8_from_pixels(self._map_for(latent).paint(latent))
        self._pending.append(_Pending(step.sequence_id, step.preview, *_to_host(u8)))

    def take(self) -> list[PaintedPreview]:
        """Return the previews that have arrived, in the order they were begun."""
        painted: list[PaintedPreview] = []
        while self._pending and (self._pending[0].copied is None or self._pending[0].copied.query()):
            done = self._pending.pop(0)
            height, width, _ = done.u8.shape
            painted.append(PaintedPreview(done.sequence_id, done.preview, Picture(height, width, done.u8.numpy().tobytes())))
        return painted

    def _map_for(self, latent: torch.Tensor) -> LatentPreview:
        scale = self._preview.scale_for(latent.shape[1], latent.shape[2])
        if scale not in self._reduced:
            self._reduced[scale] = self._preview.reduced(scale).to(latent.device)
        return self._reduced[scale]


def _to_host(u8: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """Begin the copy; on a CPU there is none to make."""
    if u8.device.type != "cuda":
        return u8, None
    host = torch.empty(u8.shape, dtype=u8.dtype, pin_memory=True)
    host.copy_(u8, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return host, copied
