"""The Triton attention against float64: in the interpreter (tests/conftest.py sees to it), compiled where there is a GPU.

An iteration of a key loop costs milliseconds in the interpreter whatever its size: few rows, tiles as large as shipped.
"""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from kernels import reference
from kernels.attention_launch import attend_with_triton, generation_of_device
from kernels.attention_work import renew_work
from kernels.plan import build_attention_plan
from kernels.tiles import Kind, tile_shape
from tests.kernels.accuracy import assert_close_to_float64
from tests.kernels.ragged import RaggedCase, Row, Segment, SegmentKind, Shape, build_case, decode, denoise, ragged_cases

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
TEXT, IMAGE = SegmentKind.TEXT, SegmentKind.IMAGE


def check(case: RaggedCase, dtype: torch.dtype) -> None:
    rounded = case.to(dtype, str(DEVICE))
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


# Tiles are 64 keys wide: bounds that end a tile, and one key beside, in pages, among own tokens and where the two meet.
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


SPLIT_KEYS = [tile_shape(generation_of_device(DEVICE), kind, 64) for kind in Kind]


@pytest.mark.parametrize("past_len", [shape.keys * shape.split_tiles + edge for shape in SPLIT_KEYS for edge in (-1, 0, 1)])
def test_rows_over_many_keys_are_split_and_merged(past_len: int) -> None:
    rows = [decode(past_len), Row(past_len, (Segment(TEXT, 3),)), decode(3)]
    case = build_case(rows, Shape(num_kv_heads=2, group=7, head_dim=64, page_size=16), seed=past_len)
    check(case, torch.float32)


def test_a_split_in_which_a_query_sees_nothing_adds_nothing() -> None:
    case = build_case([Row(1100, (Segment(TEXT, 4),))], Shape(num_kv_heads=1, group=1, head_dim=16, page_size=16), seed=1)
    case.plan.layout.kv_end[:2] = [1, 600]
    check(case, torch.float32)


def test_a_row_gives_the_same_bits_alone_and_in_company() -> None:
    rows = [decode(700), decode(30), Row(40, (Segment(TEXT, 9),)), denoise(64, 40)]
    case = build_case(rows, Shape(num_kv_heads=2, group=7, head_dim=64, page_size=16), seed=3).to(torch.float32, str(DEVICE))
    together = attend_with_triton(*case.call)
    for row in range(len(rows)):
        tokens = case.tokens_of_row(row)
        assert torch.equal(attend_with_triton(*case.alone(row).call)[tokens], together[tokens])


def test_every_layer_shares_the_work_of_the_first() -> None:
    case = build_case([decode(40), denoise(3, 7)], Shape(num_kv_heads=2, group=7, head_dim=64, page_size=16), seed=8)
    rounded = case.to(torch.float32, str(DEVICE))
    attend_with_triton(*rounded.call)
    work = dict(rounded.plan.work)
    attend_with_triton(*rounded.call)
    assert len(work) == 2
    assert all(rounded.plan.work[key] is one for key, one in work.items())


def test_a_static_plan_serves_step_after_step_from_the_same_memory() -> None:
    """As a captured graph reads it: lists with room to spare, written anew for rows that have grown past another split."""
    shape = Shape(num_kv_heads=2, group=7, head_dim=64, page_size=16)
    cases = [build_case([decode(length), decode(30)], shape, seed=length).to(torch.float32, str(DEVICE)) for length in (900, 200, 700)]
    static = replace(cases[0].plan, is_static=True, work={})
    attend_with_triton(*replace(cases[0], plan=static).call)
    (work,) = static.work.values()
    for case in cases:
        here, there = case.plan.layout, static.layout
        there.token_index[:], there.kv_end[:], there.past_len[:] = here.token_index, here.kv_end, here.past_len
        there.kv_indptr[:], there.kv_indices[: len(here.kv_indices)] = here.kv_indptr, here.kv_indices
        renew_work(static)
        on_device = build_attention_plan(there, DEVICE)
        static.token_index.copy_(on_device.token_index)
        static.kv_end.copy_(on_device.kv_end)
        static.kv_indices.copy_(on_device.kv_indices)
        assert torch.equal(attend_with_triton(*replace(case, plan=static).call), attend_with_triton(*case.call))
    assert list(static.work.values()) == [work] and work.num_slots == len(work.items)


@pytest.mark.parametrize("shape", [Shape(1, 1, 256, 16), Shape(1, 256, 16, 16)], ids=["wide head", "large group"])
def test_what_the_kernel_cannot_take_is_refused_by_its_numbers(shape: Shape) -> None:
    case = build_case([decode(3)], shape, seed=1).to(torch.float32, str(DEVICE))
    with pytest.raises(ValueError, match="256"):
        attend_with_triton(*case.call)


def test_no_rows_need_no_kernel() -> None:
    case = build_case([decode(3)], Shape(1, 1, 16, 16), seed=1).to(torch.float32, str(DEVICE))
    none, starts = np.empty(0, dtype=np.int32), np.zeros(1, dtype=np.int32)
    layout = replace(
        case.alone(0).plan.layout,
        qo_indptr=starts,
        kv_indptr=starts,
        token_index=none,
        kv_end=none,
        past_len=none,
        kv_indices=none,
        num_single_rows=0,
    )
    plan = build_attention_plan(layout, DEVICE)
    assert attend_with_triton(case.q[:0], case.k[:0], case.v[:0], case.pages, plan).shape == (0, 1, 16)
