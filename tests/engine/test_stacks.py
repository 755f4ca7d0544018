"""A few understanding tokens taken through every layer in one native call get the bits, and leave the pages, of layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.plan import AttentionPlan, build_attention_plan
from model.bagel import Attend, PackedTokens
from model.weights import load_bagel
from server.engine.paged_attention import PagedAttend, PagedKeysValues
from tests.kernels.ragged import Row, Segment, SegmentKind, build_layout, decode

MODEL = load_bagel(Path(__file__).parents[1] / "golden" / "tiny_a", torch.device("cpu"), torch.float32)
PAGE_SIZE = 16
ROWS = [decode(20), decode(3), decode(32), Row(5, (Segment(SegmentKind.TEXT, 4),)), Row(0, (Segment(SegmentKind.TEXT, 9),))]


def paged(plan: AttentionPlan) -> tuple[PagedAttend, torch.Tensor]:
    """Return attention over a fresh pool of random keys and values, and the pool."""
    llm = MODEL.config.llm
    shape = (llm.num_layers, 2, len(plan.kv_indices) + 2, PAGE_SIZE, llm.num_kv_heads, llm.head_dim)
    cache = PagedKeysValues(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    return cache.attend(plan), cache.pool


@pytest.mark.parametrize("num_rows", range(1, 6))
def test_a_stack_of_layers_in_one_call_gives_the_bits_of_layer_by_layer(num_rows: int) -> None:
    plan = build_attention_plan(build_layout(ROWS[:num_rows], PAGE_SIZE, np.random.default_rng(num_rows)), torch.device("cpu"))
    num_tokens = plan.layout.num_tokens
    hidden = torch.randn(num_tokens, MODEL.config.llm.hidden_size, generator=torch.Generator().manual_seed(2))
    tokens = PackedTokens(hidden, torch.arange(num_tokens), num_tokens)
    whole, pool = paged(plan)
    by_layer, expected_pool = paged(plan)
    only_attends: Attend = by_layer.__call__

    with torch.inference_mode():
        assert torch.equal(MODEL(tokens, whole), MODEL(tokens, only_attends))

    assert torch.equal(pool, expected_pool)
