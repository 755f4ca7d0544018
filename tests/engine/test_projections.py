"""The way a GPU goes through a layer, both experts' heads in one matrix, gives what the way of a CPU gives: here on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.plan import AttentionPlan, build_attention_plan
from model.bagel import PackedTokens
from model.weights import load_bagel
from server.engine.paged_attention import PagedKeysValues
from tests.kernels.ragged import Row, Segment, SegmentKind, build_layout, decode, denoise

MODEL = load_bagel(Path(__file__).parents[1] / "golden" / "tiny_a", torch.device("cpu"), torch.float32)
PAGE_SIZE = 16
ROWS = [decode(20), decode(3), denoise(10, 6), Row(5, (Segment(SegmentKind.TEXT, 4), Segment(SegmentKind.IMAGE, 7)))]


def keys_values(num_pages: int) -> PagedKeysValues:
    llm = MODEL.config.llm
    shape = (llm.num_layers, 2, num_pages, PAGE_SIZE, llm.num_kv_heads, llm.head_dim)
    return PagedKeysValues(torch.randn(shape, generator=torch.Generator().manual_seed(1)))


def run(plan: AttentionPlan, num_und: int, *, takes_projections: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the hidden states of a pass and the pool after it."""
    cache = keys_values(len(plan.kv_indices) + 2)
    num_tokens = plan.layout.num_tokens
    hidden = torch.randn(num_tokens, MODEL.config.llm.hidden_size, generator=torch.Generator().manual_seed(2))
    attend = cache.attend(plan)
    attend.takes_projections = takes_projections
    with torch.inference_mode():
        return MODEL(PackedTokens(hidden, torch.arange(num_tokens) % 50, num_und), attend), cache.pool


@pytest.mark.parametrize("num_und", [0, 15, 21], ids=["generation alone", "both", "nearly all understanding"])
def test_projections_taken_whole_give_the_same_states_and_pages(num_und: int) -> None:
    plan = build_attention_plan(build_layout(ROWS, PAGE_SIZE, np.random.default_rng(0)), torch.device("cpu"))
    hidden, pool = run(plan, num_und, takes_projections=True)
    expected_hidden, expected_pool = run(plan, num_und, takes_projections=False)
    torch.testing.assert_close(hidden, expected_hidden, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pool, expected_pool, rtol=1e-4, atol=1e-4)
