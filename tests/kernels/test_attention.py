from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from kernels import reference
from kernels.attention import interleaved_attention
from kernels.attention_torch import attend_with_torch
from kernels.native_kernels import attention_fits, native_kernels
from tests.kernels.accuracy import assert_close_to_float64
from tests.kernels.ragged import RaggedCase, Row, Segment, SegmentKind, Shape, build_case, decode, denoise, ragged_cases

MIXED_ROWS = [
    decode(past_len=17),
    denoise(past_len=16, num_latents=30),
    Row(0, (Segment(SegmentKind.TEXT, 9), Segment(SegmentKind.IMAGE, 12), Segment(SegmentKind.TEXT, 5))),
    decode(past_len=0),
]


def reference_of(case: RaggedCase) -> torch.Tensor:
    return reference.interleaved_attention(*case.to(torch.float64).call)


@settings(max_examples=60, deadline=None)
@given(ragged_cases())
def test_attention_of_any_ragged_batch_equals_its_reference(case: RaggedCase) -> None:
    rounded = case.to(torch.float32)
    with torch.no_grad():
        assert_close_to_float64(interleaved_attention(*rounded.call), reference_of(rounded))


@settings(max_examples=30, deadline=None)
@given(ragged_cases(), st.integers(0, 2**31))
def test_attention_under_any_bounds_equals_its_reference(case: RaggedCase, seed: int) -> None:
    rounded = case.with_any_bounds(seed).to(torch.float32)
    with torch.no_grad():
        assert_close_to_float64(interleaved_attention(*rounded.call), reference_of(rounded))
        assert_close_to_float64(attend_with_torch(*rounded.call), reference_of(rounded))


@settings(max_examples=30, deadline=None)
@given(ragged_cases())
def test_torch_attention_of_any_ragged_batch_equals_its_reference(case: RaggedCase) -> None:
    rounded = case.to(torch.float32)
    assert_close_to_float64(attend_with_torch(*rounded.call), reference_of(rounded))


@settings(max_examples=10, deadline=None)
@given(ragged_cases(max_rows=3), st.sampled_from([torch.bfloat16, torch.float16]))
def test_half_precision_attention_equals_its_reference(case: RaggedCase, dtype: torch.dtype) -> None:
    rounded = case.to(dtype)
    with torch.no_grad():
        assert_close_to_float64(interleaved_attention(*rounded.call), reference_of(rounded))


@pytest.mark.parametrize("head_dim", [16, 64, 72, 128, 20])
def test_attention_takes_any_even_head_dim(head_dim: int) -> None:
    case = build_case(MIXED_ROWS, Shape(num_kv_heads=2, group=4, head_dim=head_dim, page_size=16), seed=1).to(torch.float32)
    with torch.no_grad():
        assert_close_to_float64(interleaved_attention(*case.call), reference_of(case))


def test_native_attention_serves_the_layout_of_a_fused_projection() -> None:
    """The fast path is really taken: keys and values are views of the projection, not copies."""
    case = build_case(MIXED_ROWS, Shape(num_kv_heads=2, group=4, head_dim=64, page_size=16), seed=2).to(torch.float32)
    native = native_kernels()
    assert native is not None
    with torch.no_grad():
        assert not case.k.is_contiguous()
        assert attention_fits(*case.call[:4])
        assert_close_to_float64(native.attention(*case.call), reference_of(case))


def test_long_contexts_keep_their_accuracy() -> None:
    rows = [decode(past_len=3000), denoise(past_len=1500, num_latents=64)]
    case = build_case(rows, Shape(num_kv_heads=1, group=7, head_dim=128, page_size=16), seed=3).to(torch.float32)
    with torch.no_grad():
        assert_close_to_float64(interleaved_attention(*case.call), reference_of(case))


def test_large_scores_neither_overflow_nor_lose_the_largest() -> None:
    """Scores of some hundreds: exp of them overflows unless the running maximum is taken off first."""
    case = build_case(MIXED_ROWS, Shape(num_kv_heads=2, group=4, head_dim=64, page_size=16), seed=4).to(torch.float32)
    case.q.mul_(50.0)
    with torch.no_grad():
        actual = interleaved_attention(*case.call)
    # Scores are good to 2^-24 x 400, so the weights are to some 2.4e-5 x a few.
    torch.testing.assert_close(actual.double(), reference_of(case), atol=5e-4, rtol=5e-4)


def test_a_query_that_is_not_a_number_says_so_in_its_own_row_only() -> None:
    case = build_case(MIXED_ROWS, Shape(num_kv_heads=2, group=4, head_dim=64, page_size=16), seed=5).to(torch.float32)
    poisoned = case.tokens_of_row(2)
    case.q[poisoned] = float("nan")
    with torch.no_grad():
        is_nan = interleaved_attention(*case.call).isnan().flatten(1)
    assert is_nan[poisoned].all()
    assert not is_nan[[i for i in range(len(case.qkv)) if i not in poisoned.tolist()]].any()


@pytest.mark.parametrize("row", range(len(MIXED_ROWS)))
def test_a_row_gets_the_same_bits_alone_and_in_company(row: int) -> None:
    case = build_case(MIXED_ROWS, Shape(num_kv_heads=2, group=4, head_dim=64, page_size=16), seed=6).to(torch.float32)
    tokens = case.tokens_of_row(row)
    with torch.no_grad():
        together = interleaved_attention(*case.call)
        alone = interleaved_attention(*case.alone(row).call)
    assert torch.equal(together[tokens], alone[tokens])


def test_a_batch_of_no_tokens_gives_no_rows() -> None:
    case = build_case([], Shape(num_kv_heads=2, group=4, head_dim=64, page_size=16), seed=0).to(torch.float32)
    with torch.no_grad():
        assert interleaved_attention(*case.call).shape == (0, 8, 64)


def test_gradients_flow_to_queries_keys_and_values() -> None:
    case = build_case([decode(5), denoise(4, 2)], Shape(num_kv_heads=1, group=2, head_dim=4, page_size=4), seed=7)
    inputs = tuple(x.clone().requires_grad_() for x in (case.q, case.k, case.v))

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return interleaved_attention(q, k, v, case.pages, case.plan)

    assert torch.autograd.gradcheck(attend, inputs)
