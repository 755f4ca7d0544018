"""No key and no value is cut off by 8-bit pages, whatever the states are: the bound follows from the weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from kernels.fp8 import MAX_FP8
from model.config import BagelConfig
from model.kv_scales import kv_scales, largest_key, largest_value
from model.shipped import STORYBOOK
from model.transformer import Expert, Rotation
from model.weights import load_bagel

TINY = Path(__file__).parents[1] / "golden" / "tiny_a"
CONFIG = BagelConfig.from_directory(TINY).llm


def random_expert(seed: int) -> Expert:
    """An expert whose norms weigh some channels a hundred times others, and whose biases are not small."""
    torch.manual_seed(seed)
    expert = Expert(CONFIG, rotates_in_float32=False).requires_grad_(False)
    for parameter in expert.parameters():
        parameter.normal_()
    expert.input_norm.mul_(torch.logspace(-1, 1, len(expert.input_norm)))
    expert.k_norm.mul_(torch.logspace(-1, 1, len(expert.k_norm)))
    return expert


@pytest.mark.parametrize("has_fp8_weights", [False, True])
def test_the_worst_state_there_is_reaches_the_bound_of_a_value_and_none_passes_it(has_fp8_weights: bool) -> None:
    expert = random_expert(0)
    rows = slice(-expert.num_kv_heads * len(expert.k_norm), None)
    worst = (expert.qkv_weight[rows] * expert.input_norm) * expert.qkv_bias[rows, None].sign()
    if has_fp8_weights:
        expert.round_matrices()
    _, _, v = expert.project(torch.cat([worst, torch.randn(500, CONFIG.hidden_size)]), rotation(500 + len(worst)))
    largest = float(v.abs().max())
    assert largest <= 1.001 * largest_value(expert)
    assert largest >= (0.9 if has_fp8_weights else 0.999) * largest_value(expert)


def test_no_rotated_key_passes_the_bound() -> None:
    expert = random_expert(1)
    _, k, _ = expert.project(torch.randn(2000, CONFIG.hidden_size), rotation(2000))
    assert 0.3 * largest_key(expert) < float(k.abs().max()) <= 1.001 * largest_key(expert)


def rotation(num_tokens: int) -> Rotation:
    return Rotation.at(torch.arange(num_tokens), CONFIG, torch.float32)


@pytest.mark.parametrize("path", [TINY, STORYBOOK], ids=["tiny", "storybook"])
def test_a_layers_scales_are_powers_of_two_that_hold_both_experts(path: Path) -> None:
    model = load_bagel(path, torch.device("cpu"), torch.float32)
    for layer, scales in zip(model.mot_layers, kv_scales(model.mot_layers), strict=True):
        for scale, largest in ((scales.k, largest_key), (scales.v, largest_value)):
            assert math.log2(scale).is_integer()
            bound = max(largest(layer.und), largest(layer.gen))
            assert MAX_FP8 * scale / 2 < bound <= MAX_FP8 * scale
