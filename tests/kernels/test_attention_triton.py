"""The Triton attention against float64: in the interpreter (tests/conftest.py sees to it), compiled where there is a GPU.

An iteration of a key loop costs milliseconds in the interpreter whatever its size: few rows, tiles as large as shipped.
"""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from kernels import reference
from kernels.attention_triton import DECODE_TILE, LONG_TILE, SHORT_TILE, attend_with_triton, choose_tile
from tests.kernels.accuracy import assert_close_to_float64
from tests.kernels.ragged import RaggedCase, Row, Segment, SegmentKind, Shape, build_case, decode, denoise, ragged_cases

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TEXT, IMAGE = SegmentKind.TEXT, SegmentKind.IMAGE


def check(case: RaggedCase, dtype: torch.dtype) -> None:
    rounded = case.to(dtype, DEVICE)
    expected = reference.interleaved_attention(*case.to(dtype).to(torch.float64).call)
    assert_close_to_float64(attend_with_triton(*rounded.call), expected)


@settings(max_examples=25, deadline=None)
@given(ragged_cases(max_rows=4, max_segment=30))
def test_attention_of_any_ragged_batch_equals_its_reference(case: RaggedCase) -> None:
    check(case, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("group", [1, 4, 7])
def test_a_mixed_batch_equals_its_reference_in_every_dtype(dtype: torch.dtype, group: int) -> None:
    rows = [decode(0), decode(33), denoise(20, 60), Row(70, (Segment(TEXT, 20), Segment(IMAGE, 30), Segment(TEXT, 3)))]
    check(build_case(rows, Shape(num_kv_heads=2, group=group, head_dim=64, page_size=16), seed=group), dtype)


@pytest.mark.parametrize("head_dim", [16, 72, 128])
def test_head_dims_that_are_no_power_of_two_are_padded(head_dim: int) -> None:
    rows = [decode(17), denoise(15, 20)]
    check(build_case(rows, Shape(num_kv_heads=2, group=4, head_dim=head_dim, page_size=16), seed=head_dim), torch.float32)


# Tiles are 64 keys wide: bounds that end a tile, and one key beside, in pages and among a row's own tokens.
@pytest.mark.parametrize("past_len", [0, 63, 64, 65])
@pytest.mark.parametrize("image_length", [63, 64, 65, 127, 128])
def test_tile_edges_hide_and_show_the_right_keys(past_len: int, image_length: int) -> None:
    row = Row(past_len, (Segment(IMAGE, image_length), Segment(TEXT, 5)))
    check(build_case([row], Shape(num_kv_heads=1, group=1, head_dim=16, page_size=16), seed=past_len), torch.float32)


@pytest.mark.parametrize("end", [1, 63, 64, 65, 128, 129])
def test_a_bound_inside_the_past_hides_the_rest_of_it(end: int) -> None:
    case = build_case([denoise(200, 8)], Shape(num_kv_heads=1, group=1, head_dim=16, page_size=16), seed=end)
    case.plan.layout.kv_end[:5] = end
    check(case, torch.float32)


@settings(max_examples=10, deadline=None)
@given(ragged_cases(max_rows=3, max_segment=30), st.integers(0, 2**31))
def test_attention_under_any_bounds_equals_its_reference(case: RaggedCase, seed: int) -> None:
    check(case.with_any_bounds(seed), torch.float32)


@pytest.mark.parametrize(
    ("rows", "tile"),
    [([decode(40)] * 3, DECODE_TILE), ([decode(40), denoise(3, 7)], SHORT_TILE), ([decode(40), denoise(3, 40)], LONG_TILE)],
    ids=["decode", "short", "long"],
)
def test_each_tile_shape_is_chosen_by_the_longest_row_and_is_right(rows: list[Row], tile: object) -> None:
    case = build_case(rows, Shape(num_kv_heads=2, group=7, head_dim=64, page_size=16), seed=8)
    assert choose_tile(case.plan.layout, group=7) is tile
    check(case, torch.float32)
