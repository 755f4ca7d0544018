"""Float32 on a CPU: what an op gives a token has the same bits alone, in any company, in any chunk and over pages of any size.

This is what lets a request that is computed again elsewhere, in other company, end in the same words and the same picture.
"""

from __future__ import annotations

import random
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from kernels.attention import interleaved_attention
from kernels.expert import finish_layer, project_heads
from kernels.linear import linear
from kernels.native_kernels import native_kernels
from kernels.plan import RowLayout, build_attention_plan
from kernels.qk_norm_rope import qk_norm_rope
from kernels.rms_norm import rms_norm
from kernels.silu_mul import silu_mul
from tests.kernels.ragged import RaggedCase, ragged_cases
from tests.kernels.test_expert import random_weights, single

EPS = 1e-6
depths = st.one_of(st.integers(1, 70), st.sampled_from([588, 1023, 1024, 1025, 2500]))
widths = st.one_of(st.integers(1, 70), st.sampled_from([127, 200]))


@st.composite
def selections(draw: st.DrawFn, max_rows: int = 130) -> tuple[int, list[int]]:
    """A number of rows and a choice of them, in any order, one at least."""
    num_rows = draw(st.integers(1, max_rows))
    return num_rows, draw(st.lists(st.integers(0, num_rows - 1), min_size=1, max_size=num_rows, unique=True))


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=100, deadline=None)
@given(selections(), widths, depths, st.booleans())
def test_rows_of_a_product(selection: tuple[int, list[int]], num_outputs: int, depth: int, has_bias: bool) -> None:
    num_rows, chosen = selection
    x, weight = values(num_rows, depth), values(num_outputs, depth, seed=1)
    bias = values(num_outputs, seed=2) if has_bias else None
    with torch.no_grad():
        assert torch.equal(linear(x, weight, bias)[chosen], linear(x[chosen], weight, bias))


@pytest.mark.parametrize("depth", [512, 1536])
def test_rows_of_a_product_with_a_weight_that_passes_by_the_caches(depth: int) -> None:
    x, weight = values(40, depth), values((1 << 18) // depth + 3, depth, seed=1)
    with torch.no_grad():
        together = linear(x, weight)
        for start, end in ((0, 1), (1, 6), (6, 13), (13, 37)):
            assert torch.equal(together[start:end], linear(x[start:end], weight))


@settings(max_examples=40, deadline=None)
@given(selections(), widths)
def test_rows_of_the_rowwise_ops(selection: tuple[int, list[int]], width: int) -> None:
    num_rows, chosen = selection
    x, weight = values(num_rows, 2 * width), values(2 * width, seed=1)
    heads, angles = values(num_rows, 3, 2 * width, seed=2), values(num_rows, 2 * width, seed=3)
    cos, sin = angles.cos(), angles.sin()
    with torch.no_grad():
        assert torch.equal(rms_norm(x, weight, EPS)[chosen], rms_norm(x[chosen], weight, EPS))
        assert torch.equal(silu_mul(x)[chosen], silu_mul(x[chosen]))
        together = qk_norm_rope(heads[:, :2], heads[:, 2:], weight, weight, cos, sin, EPS)
        apart = qk_norm_rope(heads[chosen][:, :2], heads[chosen][:, 2:], weight, weight, cos[chosen], sin[chosen], EPS)
    assert all(torch.equal(whole[chosen], part) for whole, part in zip(together, apart, strict=True))


@settings(max_examples=30, deadline=None)
@given(selections(max_rows=500), st.sampled_from([(64, 160, (4, 2), 16), (56, 40, (7, 1), 8), (192, 512, (6, 3), 32)]))
def test_tokens_of_an_expert(selection: tuple[int, list[int]], sizes: tuple[int, int, tuple[int, int], int]) -> None:
    num_tokens, chosen = selection
    hidden, wide, heads, head_dim = sizes
    weights = single(random_weights(hidden, wide, heads, head_dim))
    x, angles, attended = values(num_tokens, hidden), values(num_tokens, head_dim, seed=1), values(num_tokens, heads[0], head_dim, seed=2)
    cos, sin = angles.cos(), angles.sin()
    with torch.no_grad():
        together = (*project_heads(x, cos, sin, weights), finish_layer(x, attended, weights))
        apart = (*project_heads(x[chosen], cos[chosen], sin[chosen], weights), finish_layer(x[chosen], attended[chosen], weights))
    assert all(torch.equal(whole[chosen], part) for whole, part in zip(together, apart, strict=True))


@settings(max_examples=60, deadline=None)
@given(ragged_cases(max_segment=70))
def test_rows_of_attention(case: RaggedCase) -> None:
    rounded = case.to(torch.float32)
    with torch.no_grad():
        together = interleaved_attention(*rounded.call)
        for row in range(rounded.plan.layout.num_rows):
            tokens = rounded.tokens_of_row(row)
            assert torch.equal(interleaved_attention(*rounded.alone(row).call)[tokens], together[tokens])


@settings(max_examples=60, deadline=None)
@given(ragged_cases(max_segment=70), st.integers(1, 9))
def test_parts_of_attention(case: RaggedCase, num_parts: int) -> None:
    native, rounded = native_kernels(), case.to(torch.float32)
    assert native is not None
    with torch.no_grad():
        parts = native.attention_in_parts(*rounded.call, num_parts)
        while True:
            try:
                next(parts)
            except StopIteration as end:
                assert torch.equal(end.value, interleaved_attention(*rounded.call))
                return


def in_pages(case: RaggedCase, row: int, num_kept: int, page_size: int) -> RaggedCase:
    """The same row when its first ``num_kept`` tokens are past: their keys and values in pages of another size, in another order."""
    layout = case.plan.layout
    tokens, past = case.tokens_of_row(row), int(layout.past_len[row])
    pages = layout.kv_indices[layout.kv_indptr[row] : layout.kv_indptr[row + 1]]
    slots = (pages[:, None].astype(np.int64) * layout.page_size + np.arange(layout.page_size)).reshape(-1)[:past]
    first = int(layout.qo_indptr[row])
    num_pages = -(-(past + num_kept) // page_size)
    indices = np.random.default_rng(num_pages).permutation(num_pages).astype(np.int32)

    def repaged(stored: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        keys = torch.cat([stored.flatten(0, 1)[torch.from_numpy(slots)], own[tokens[:num_kept]]])
        whole = torch.full((num_pages * page_size, *keys.shape[1:]), float("nan"))
        whole[: len(keys)] = keys
        pool = torch.empty(num_pages, page_size, *keys.shape[1:])
        pool[torch.from_numpy(indices).long()] = whole.unflatten(0, (num_pages, page_size))
        return pool

    rest = slice(first + num_kept, int(layout.qo_indptr[row + 1]))
    num_rest = rest.stop - rest.start
    plan = RowLayout(
        qo_indptr=np.array([0, num_rest], dtype=np.int32),
        token_index=layout.token_index[rest],
        kv_end=layout.kv_end[rest],
        past_len=np.array([past + num_kept], dtype=np.int32),
        kv_indptr=np.array([0, num_pages], dtype=np.int32),
        kv_indices=indices,
        write_tokens=layout.write_tokens[:0],
        write_slots=layout.write_slots[:0],
        num_single_rows=int(num_rest == 1),
        page_size=page_size,
    )
    return replace(
        case,
        k_pages=repaged(case.k_pages, case.k),
        v_pages=repaged(case.v_pages, case.v),
        plan=build_attention_plan(plan, torch.device("cpu")),
    )


@settings(max_examples=60, deadline=None)
@given(ragged_cases(max_rows=2, max_segment=70), st.sampled_from([1, 3, 16, 64]), st.randoms(use_true_random=False))
def test_queries_whose_earlier_tokens_are_past(case: RaggedCase, page_size: int, rng: random.Random) -> None:
    """A chunk of a prompt, or a token that is decoded, beside the same tokens in one prefill."""
    rounded = case.to(torch.float32)
    row = rng.randrange(rounded.plan.layout.num_rows)
    tokens = rounded.tokens_of_row(row)
    num_kept = rng.randrange(len(tokens))
    with torch.no_grad():
        together = interleaved_attention(*rounded.call)
        resumed = interleaved_attention(*in_pages(rounded, row, num_kept, page_size).call)
    assert torch.equal(resumed[tokens[num_kept:]], together[tokens[num_kept:]])
