"""Keys and values kept as 8-bit floats: rounded as stated, read as what they stand for, the same however a prompt is cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from kernels import reference
from kernels.attention import interleaved_attention
from kernels.attention_launch import attend_with_triton
from kernels.fp8 import FP8
from kernels.head_norms import ExpertHeads, HeadNorms
from kernels.heads import rotate_and_keep_in_parts
from kernels.heads_triton import rotate_and_keep_with_triton
from kernels.kv_pages import KvPages, KvScales, rounded_to, scale_up_to, widened
from kernels.pages import copy_pages, write_pages
from kernels.pages_triton import write_pages_with_triton
from kernels.plan import AttentionPlan
from tests.kernels.accuracy import assert_close_to_float64
from tests.kernels.ragged import RaggedCase, Row, Segment, SegmentKind, Shape, build_case, decode, denoise, ragged_cases
from tests.kernels.test_fp8 import HALF_STEP, is_rounded_up_to_a_power_of_two

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALLEST = 2.0**-10
"""Half the distance of the smallest numbers."""
SCALES = KvScales(2.0**-6, 2.0**-4)
ROWS = [decode(33), decode(0), denoise(20, 30), Row(70, (Segment(SegmentKind.TEXT, 20), Segment(SegmentKind.IMAGE, 30)))]
SHAPE = Shape(num_kv_heads=2, group=7, head_dim=64, page_size=16)

scales = st.builds(KvScales, *[st.integers(-12, 4).map(lambda exponent: 2.0**exponent)] * 2)


def reference_of(case: RaggedCase) -> torch.Tensor:
    """What float64 makes of the same queries, keys and pages."""
    return reference.interleaved_attention(*replace(case, qkv=case.qkv.double()).call)


@settings(max_examples=40, deadline=None)
@given(ragged_cases(), scales)
def test_attention_over_8_bit_pages_equals_its_reference(case: RaggedCase, scales: KvScales) -> None:
    rounded = case.to(torch.float32).in_fp8_pages(scales)
    with torch.no_grad():
        assert_close_to_float64(interleaved_attention(*rounded.call), reference_of(rounded))


def check_on_device(case: RaggedCase, dtype: torch.dtype) -> None:
    rounded = case.to(dtype).in_fp8_pages(SCALES)
    assert_close_to_float64(attend_with_triton(*rounded.on(DEVICE).call), reference_of(rounded))


@settings(max_examples=20, deadline=None)
@given(ragged_cases(max_rows=4, max_segment=30), st.integers(0, 2**31))
def test_the_kernel_over_8_bit_pages_equals_its_reference_under_any_bounds(case: RaggedCase, seed: int) -> None:
    check_on_device(case.with_any_bounds(seed), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("group", [1, 7])
def test_a_mixed_batch_over_8_bit_pages_equals_its_reference_in_every_dtype(dtype: torch.dtype, group: int) -> None:
    check_on_device(build_case(ROWS, replace(SHAPE, group=group), seed=group), dtype)


@pytest.mark.parametrize("past_len", [255, 256, 257, 600])
def test_rows_over_many_8_bit_keys_are_split_and_merged(past_len: int) -> None:
    check_on_device(build_case([decode(past_len), Row(past_len, (Segment(SegmentKind.TEXT, 3),))], SHAPE, seed=past_len), torch.float32)


Write = Callable[[torch.Tensor, torch.Tensor, KvPages, AttentionPlan], None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("write", [reference.write_pages, write_pages, write_pages_with_triton])
def test_kept_tokens_are_rounded_into_their_slots_and_become_what_is_kept(write: Write, dtype: torch.dtype) -> None:
    case = build_case(ROWS, SHAPE, seed=1).to(dtype).in_fp8_pages(SCALES).on(DEVICE)
    before = case.qkv.clone()
    wrote = torch.zeros(case.k_pages.shape[:2], dtype=torch.bool).flatten()
    wrote[case.plan.layout.write_slots] = True
    held = [pages.float().flatten(0, 1)[~wrote] for pages in (case.k_pages, case.v_pages)]
    with torch.no_grad():
        write(case.k, case.v, case.pages, case.plan)
    tokens, slots = case.plan.write_tokens, case.plan.write_slots
    was = replace(case, qkv=before)
    for now, earlier, pages, scale in ((case.k, was.k, case.k_pages, SCALES.k), (case.v, was.v, case.v_pages, SCALES.v)):
        kept = widened(pages.flatten(0, 1)[slots], scale, torch.float32)
        assert torch.equal(now[tokens].float(), kept)
        assert_is_rounded(kept, earlier[tokens], scale)
        assert torch.equal(now[~is_kept(case)], earlier[~is_kept(case)])
    for pages, expected in zip((case.k_pages, case.v_pages), held, strict=True):
        torch.testing.assert_close(pages.float().flatten(0, 1)[~wrote], expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(case.q, was.q)


def is_kept(case: RaggedCase) -> torch.Tensor:
    kept = torch.zeros(len(case.qkv), dtype=torch.bool)
    kept[case.plan.layout.write_tokens] = True
    return kept


def assert_is_rounded(kept: torch.Tensor, x: torch.Tensor, scale: float) -> None:
    wide = x.float()
    is_off = (kept - wide).abs() > 1.001 * torch.maximum(HALF_STEP * wide.abs(), torch.tensor(2 * SMALLEST * scale))
    if DEVICE == "cpu":
        is_off &= ~is_rounded_up_to_a_power_of_two(wide, 2 * kept) | (wide.abs() < 1.9 * kept.abs())
    assert not is_off.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_und", [0, 11, 83])
def test_heads_rotated_into_8_bit_pages_are_those_of_the_parts(num_und: int, dtype: torch.dtype) -> None:
    case = build_case(ROWS, SHAPE, seed=2).to(dtype)
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(SHAPE.head_dim, generator=generator).to(dtype) for _ in range(4)]
    experts = ExpertHeads(HeadNorms(weights[0], weights[1], False), HeadNorms(weights[2], weights[3], True), num_und, 1e-6)
    angle = 100.0 * torch.randn(len(case.qkv), SHAPE.head_dim, generator=generator)
    angles = (angle.cos().to(dtype), angle.sin().to(dtype))
    wide, kept = replace(case, qkv=case.qkv.clone(), k_pages=case.k_pages.clone(), v_pages=case.v_pages.clone()), case.in_fp8_pages(SCALES)
    rotate_and_keep_with_triton(wide.qkv, experts, angles, wide.pages, wide.plan)
    rotate_and_keep_with_triton(kept.qkv, experts, angles, kept.pages, kept.plan)
    tokens, slots = kept.plan.write_tokens, kept.plan.write_slots
    assert torch.equal(kept.q, wide.q) and torch.equal(kept.qkv[~is_kept(case)], wide.qkv[~is_kept(case)])
    for found, exact, pages, scale in ((kept.k, wide.k, kept.k_pages, SCALES.k), (kept.v, wide.v, kept.v_pages, SCALES.v)):
        stored = widened(pages.flatten(0, 1)[slots], scale, torch.float32)
        assert torch.equal(found[tokens].float(), stored)
        assert_is_rounded(stored, exact[tokens], scale)
    in_parts = case.in_fp8_pages(SCALES)
    rotate_and_keep_in_parts(in_parts.qkv, experts, angles, in_parts.pages, in_parts.plan)
    assert_is_rounded(widened(in_parts.k_pages.flatten(0, 1)[slots], SCALES.k, torch.float32), in_parts.k[tokens], SCALES.k)


@pytest.mark.parametrize("write", [write_pages, write_pages_with_triton])
def test_what_is_not_finite_is_kept_as_no_number(write: Write) -> None:
    case = build_case([decode(3)], SHAPE, seed=4).to(torch.float32).in_fp8_pages(SCALES).on(DEVICE)
    case.k[0, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    case.v[0, 0, :2] = torch.tensor([1e30, -1e30])
    with torch.no_grad():
        write(case.k, case.v, case.pages, case.plan)
    kept_k, kept_v = (pages.flatten(0, 1)[case.plan.write_slots].float() for pages in (case.k_pages, case.v_pages))
    assert kept_k[0, 0, :3].isnan().all() and kept_k.isfinite().sum() == kept_k.numel() - 3
    assert kept_v[0, 0, :2].tolist() == [448.0, -448.0], "what is too large is cut off"


@pytest.mark.parametrize("num_first", [1, 16, 30])
def test_a_prompt_cut_in_two_attends_as_in_one_pass(num_first: int) -> None:
    """Own keys are rounded like those in pages: what a token sees does not hang on where its prompt was cut."""
    whole = build_case([Row(0, (Segment(SegmentKind.TEXT, 40),))], SHAPE, seed=5).to(torch.float32).in_fp8_pages(SCALES)
    order = torch.from_numpy(whole.plan.layout.token_index).long()
    rest = build_case([Row(num_first, (Segment(SegmentKind.TEXT, 40 - num_first),))], SHAPE, seed=6).to(torch.float32).in_fp8_pages(SCALES)
    rest.qkv[torch.from_numpy(rest.plan.layout.token_index).long()] = whole.qkv[order[num_first:]]
    with torch.no_grad():
        write_pages(whole.k, whole.v, whole.pages, whole.plan)
        write_pages(rest.k, rest.v, rest.pages, rest.plan)
        put_past(rest, whole.k[order[:num_first]], whole.v[order[:num_first]])
        together, later = interleaved_attention(*whole.call), interleaved_attention(*rest.call)
    in_order = later[torch.from_numpy(rest.plan.layout.token_index).long()]
    torch.testing.assert_close(in_order, together[order[num_first:]], rtol=1e-5, atol=1e-5)


def put_past(case: RaggedCase, k: torch.Tensor, v: torch.Tensor) -> None:
    """Let the past of the only row be these."""
    for pages, x, scale in ((case.k_pages, k, SCALES.k), (case.v_pages, v, SCALES.v)):
        bits = pages.view(torch.uint8)[case.plan.kv_indices.long()].flatten(0, 1)
        bits[: len(x)] = rounded_to(FP8, x, scale).view(torch.uint8)
        pages.view(torch.uint8)[case.plan.kv_indices.long()] = bits.view(-1, *pages.shape[1:])


def test_copied_8_bit_pages_equal_their_source_in_every_layer() -> None:
    pool = torch.randn(3, 2, 6, 4, 2, 8).to(FP8)
    before = pool.float()
    copy_pages(pool, torch.tensor([0, 4]), torch.tensor([5, 1]))
    assert torch.equal(pool.float()[:, :, [5, 1, 0, 2, 3, 4]], before[:, :, [0, 4, 0, 2, 3, 4]])


@given(st.floats(1e-9, 1e9))
def test_a_scale_is_the_least_power_of_two_that_cuts_nothing_off(bound: float) -> None:
    scale = scale_up_to(bound)
    assert torch.tensor(scale).frexp()[0] == 0.5
    assert bound <= 448.0 * scale < 2.0 * bound * (1 + 1e-12)


def test_attention_over_rounded_keys_stays_near_that_over_exact_ones() -> None:
    """Values rounded by 2.6 % (uniform within half a step of 2^-4) average out over the keys; keys as rounded move the weights a little."""
    case = build_case([decode(1000), denoise(500, 60)], replace(SHAPE, head_dim=128), seed=7).to(torch.float32)
    exact, found = reference_of(case), reference_of(case.in_fp8_pages(SCALES))
    assert float((found - exact).norm() / exact.norm()) < 0.05
