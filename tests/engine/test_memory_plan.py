"""The division of memory is what models really take, and what it promises fits."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from loadtests.memory_plan import FORMATS, GIB, PAGE_SIZE, MemoryPlan
from model.config import BagelConfig
from model.shipped import STORYBOOK
from model.sizes import VAE_ELEMENT_BYTES
from model.vae import Vae
from model.weight_table import count_weights
from model.weights import load_bagel
from server.engine.memory_plan import VAE_COPIES, pages_on_gpu, picture_rows

BAGEL = BagelConfig.named("bagel-7b")
PROMPT_ROWS, CHAT_ROWS = 64, 2000


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and not tensor._is_view():
                self.now += tensor.nbytes
                self.peak = max(self.peak, self.now)
                weakref.finalize(tensor, self._release, tensor.nbytes)
        return result

    def _release(self, num_bytes: int) -> None:
        self.now -= num_bytes


@pytest.mark.parametrize("has_fp8_experts", [False, True])
def test_weights_take_what_the_plan_counts(has_fp8_experts: bool) -> None:
    model = load_bagel(STORYBOOK, torch.device("cpu"), torch.bfloat16, has_fp8_experts=has_fp8_experts)
    tensors = list(model.parameters())
    for expert in model.experts:
        tensors += [] if expert.scales is None else expert.scales.in_order  # type: ignore[arg-type]
    counted = count_weights(model.config).num_bytes(2, has_fp8_experts=has_fp8_experts)
    assert counted == sum(tensor.nbytes for tensor in tensors)


def test_the_largest_picture_is_decoded_in_the_room_that_is_left_for_it() -> None:
    """On a device without memory, where every tensor is only counted."""
    side = BAGEL.vae_transform.max_size
    with torch.device("meta"):
        vae = Vae(BAGEL.vae).requires_grad_(False)
        latent = torch.empty(1, BAGEL.vae.z_channels, side // BAGEL.vae.downsample, side // BAGEL.vae.downsample)
    with torch.no_grad(), LiveBytes() as live:
        vae.decode(latent)
    room = VAE_COPIES * BAGEL.vae.ch * BAGEL.vae.ch_mult[1] * side * side * VAE_ELEMENT_BYTES
    assert 0.9 * room < live.peak < room


def test_a_gpu_keeps_back_what_a_step_works_with() -> None:
    assert pages_on_gpu(10_000, 10, working=6000) == 400
    assert pages_on_gpu(10_000, 10, working=1000) == 800
    assert pages_on_gpu(10_000, 10, working=20_000) == 1


def test_eight_pictures_and_64_chats_fit_80_gib_in_bfloat16() -> None:
    side = BAGEL.vae_transform.max_size
    rows = 8 * (PROMPT_ROWS + picture_rows(BAGEL, BAGEL.vit_transform, side, side)) + 64 * CHAT_ROWS
    assert rows == 8 * 9064 + 128_000
    assert PAGE_SIZE * MemoryPlan.of_model(BAGEL, FORMATS["bfloat16"]).num_pages(80 * GIB) > 1.5 * rows


def test_a_picture_and_its_chat_fit_24_gib_with_experts_in_8_bits_alone() -> None:
    side = BAGEL.vae_transform.max_size
    rows = PROMPT_ROWS + picture_rows(BAGEL, BAGEL.vit_transform, side, side) + CHAT_ROWS
    assert PAGE_SIZE * MemoryPlan.of_model(BAGEL, FORMATS["fp8"]).num_pages(24 * GIB) > 5 * rows
    assert MemoryPlan.of_model(BAGEL, FORMATS["bfloat16"]).num_pages(24 * GIB) == 0
