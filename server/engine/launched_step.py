"""Steps that the device has been given, in whole or but for their draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kernels.readback import Reading
from kernels.sampling import Draws
from server.engine.batch import BatchResult, DenoiseStep
from server.engine.drawing import Drawing
from server.engine.packer import PackedBatch


@dataclass(slots=True)
class Computed:
    """A step whose forward pass the device has been given; its draws too, once there is a ``reading``.

    ``logits`` are ``[num_draws, vocab]``, ``after`` the drawings as it leaves them.
    """

    packed: PackedBatch
    logits: torch.Tensor
    after: dict[int, Drawing]
    ending: list[DenoiseStep]
    result: BatchResult
    draws: Draws | None = None
    reading: Reading | None = None


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """A step that has been launched.

    ``draw`` tells the device of its draws, if they had to wait until the step before had been committed, and may raise as launching may;
    ``collect`` waits for the step, once.
    """

    draw: Callable[[], None]
    collect: Callable[[], BatchResult]
