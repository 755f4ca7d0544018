"""Rough pictures of images under way, painted beside the step without making it wait.

On a GPU a preview is copied to the host behind the step's own work and handed over with the results of the step that finds it there,
at the latest the one that finishes the image, whose latents are waited for anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import torch

from kernels.readback import send_to_host
from model.preview import GridPreview, LatentPreview
from server.engine.batch import DenoiseStep, PaintedPreview
from server.engine.image_steps import EulerStep
from server.engine.preview_steps import preview_after
from server.messages import ImageParams, Picture


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
        self._by_grid: dict[tuple[int, int], GridPreview] = {}
        self._pending: list[_Pending] = []
        self._lock = Lock()
        """Steps and a pass beside them may both look for what has arrived."""

    def watch(self, step: DenoiseStep, euler: EulerStep, x_t: torch.Tensor, velocity: torch.Tensor) -> None:
        """Begin the preview due after ``euler``, one of the steps of ``step``, if there is one.

        ``x_t``, the latents before it, and ``velocity`` are ``[num_tokens, channels]``.
        """
        preview = preview_due(step, euler)
        if preview is None:
            return
        u8 = self._map_for(step.params, x_t.device).paint(torch.sub(x_t, velocity, alpha=euler.timestep))
        self._pending.append(_Pending(step.sequence_id, preview, *_to_host(u8)))

    def take(self) -> list[PaintedPreview]:
        """Return the previews that have arrived, in the order they were begun."""
        painted: list[PaintedPreview] = []
        with self._lock:
            while self._pending and (self._pending[0].copied is None or self._pending[0].copied.query()):
                done = self._pending.pop(0)
                height, width, _ = done.u8.shape
                painted.append(PaintedPreview(done.sequence_id, done.preview, Picture(height, width, done.u8.numpy().tobytes())))
        return painted

    def _map_for(self, params: ImageParams, device: torch.device) -> GridPreview:
        grid = (params.height // self._stride, params.width // self._stride)
        if grid not in self._by_grid:
            self._by_grid[grid] = self._preview.for_grid(*grid, self._patch_size, device)
        return self._by_grid[grid]


def _to_host(u8: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """Begin the copy; on a CPU there is none to make."""
    host = send_to_host(u8)
    if not u8.is_cuda:
        return host, None
    copied = torch.cuda.Event()
    copied.record()
    return host, copied


def preview_due(step: DenoiseStep, euler: EulerStep) -> int | None:
    """Return which preview, counted from 0, follows ``euler``, one of the steps of ``step``; None for none."""
    return preview_after(euler.number + 1, step.params.num_timesteps - 1, step.params.num_previews)
