"""The smaller Triton kernels against float64: in the interpreter (tests/conftest.py sees to it), compiled where there is a GPU."""

from __future__ import annotations

import pytest
import torch

from kernels import reference
from kernels.head_norms import ExpertHeads, HeadNorms
from kernels.heads import rotate_and_keep_in_parts
from kernels.heads_triton import rotate_and_keep_with_triton
from kernels.kv_pages import KvPages
from kernels.pages_triton import write_pages_with_triton
from kernels.qk_norm_rope_triton import qk_norm_rope_with_triton
from kernels.rms_norm_triton import add_rms_norm_with_triton, rms_norm_with_triton
from kernels.silu_mul_triton import silu_mul_with_triton
from tests.kernels.accuracy import assert_close_to_float64
from tests.kernels.ragged import Row, Segment, SegmentKind, Shape, build_case, decode, denoise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-6
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def draw(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def wide(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [x.cpu().double() for x in tensors]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 16), (3, 72), (5, 512), (2, 3, 33)])
def test_rms_norm_equals_its_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = draw(*shape, dtype=dtype), draw(shape[-1], dtype=dtype, seed=1)
    assert_close_to_float64(rms_norm_with_triton(x, weight, EPS), reference.rms_norm(x.cpu().double(), weight.cpu().double(), EPS))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 2), (3, 1536 * 2), (2, 1023 * 2)])
def test_silu_mul_equals_its_reference(shape: tuple[int, int], dtype: torch.dtype) -> None:
    gate_up = draw(*shape, dtype=dtype)
    assert_close_to_float64(silu_mul_with_triton(gate_up), reference.silu_mul(*wide(gate_up)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [16, 72, 128])
def test_qk_norm_rope_equals_its_reference(head_dim: int, dtype: torch.dtype) -> None:
    qkv = draw(3, 8, head_dim, dtype=dtype)
    q, k = qkv[:, :4], qkv[:, 4:6]
    q_weight, k_weight = draw(head_dim, dtype=dtype, seed=1), draw(head_dim, dtype=dtype, seed=2)
    angle = 100.0 * draw(3, head_dim, dtype=torch.float32, seed=3)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    actual = qk_norm_rope_with_triton(q, k, q_weight, k_weight, cos, sin, EPS)
    expected = reference.qk_norm_rope(*wide(q, k, q_weight, k_weight, cos, sin), eps=EPS)
    for one, other in zip(actual, expected, strict=True):
        assert_close_to_float64(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("page_size", [1, 5, 16])
def test_write_pages_equals_its_reference(page_size: int, dtype: torch.dtype) -> None:
    rows = [decode(page_size - 1), decode(page_size), denoise(3, 4), Row(7, (Segment(SegmentKind.TEXT, 9),))]
    case = build_case(rows, Shape(num_kv_heads=2, group=1, head_dim=24, page_size=page_size), seed=page_size).to(dtype, DEVICE)
    k_expected, v_expected = case.k_pages.clone(), case.v_pages.clone()
    reference.write_pages(case.k, case.v, KvPages(k_expected, v_expected), case.plan)
    write_pages_with_triton(case.k, case.v, case.pages, case.plan)
    torch.testing.assert_close(case.k_pages, k_expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(case.v_pages, v_expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 72, 515])
def test_add_rms_norm_equals_its_reference(width: int, dtype: torch.dtype) -> None:
    branch, residual, weight = draw(3, width, dtype=dtype), draw(3, width, dtype=dtype, seed=1), draw(width, dtype=dtype, seed=2)
    expected = sum(wide(branch, residual))
    assert isinstance(expected, torch.Tensor)
    total, normed = add_rms_norm_with_triton(branch, residual, weight, EPS)
    assert_close_to_float64(total, expected)
    # The stream itself has the dtype: what is normed is the rounded sum.
    assert_close_to_float64(normed, reference.rms_norm(total.cpu().double(), weight.cpu().double(), EPS))


def head_norms(head_dim: int, dtype: torch.dtype, seed: int, *, rotates_in_float32: bool) -> HeadNorms:
    return HeadNorms(draw(head_dim, dtype=dtype, seed=seed), draw(head_dim, dtype=dtype, seed=seed + 1), rotates_in_float32)


def in_float64(norms: HeadNorms) -> HeadNorms:
    q_norm, k_norm = wide(norms.q_norm, norms.k_norm)
    return HeadNorms(q_norm, k_norm, rotates_in_float32=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_und", [0, 1, 11, 23])
@pytest.mark.parametrize(
    "shape", [Shape(2, 7, 128, 16), Shape(1, 1, 24, 5), Shape(3, 2, 16, 1)], ids=lambda shape: f"head_dim_{shape.head_dim}"
)
def test_rotate_and_keep_equals_its_parts_in_float64(shape: Shape, num_und: int, dtype: torch.dtype) -> None:
    rows = [decode(shape.page_size - 1), denoise(3, 11), Row(7, (Segment(SegmentKind.TEXT, 9),))]
    case = build_case(rows, shape, seed=num_und).to(dtype, DEVICE)
    und = head_norms(shape.head_dim, dtype, 1, rotates_in_float32=False)
    experts = ExpertHeads(und, head_norms(shape.head_dim, dtype, 3, rotates_in_float32=True), num_und, EPS)
    angle = 100.0 * draw(len(case.qkv), shape.head_dim, dtype=torch.float32, seed=5)
    angles = (angle.cos().to(dtype), angle.sin().to(dtype))
    judge = case.to(torch.float64)
    judge_experts = ExpertHeads(in_float64(experts.und), in_float64(experts.gen), num_und, EPS)
    cos, sin = wide(*angles)

    rotate_and_keep_with_triton(case.qkv, experts, angles, case.pages, case.plan)
    rotate_and_keep_in_parts(judge.qkv, judge_experts, (cos, sin), judge.pages, judge.plan)

    assert_close_to_float64(case.qkv, judge.qkv)
    for pages, expected in ((case.k_pages, judge.k_pages), (case.v_pages, judge.v_pages)):
        assert_close_to_float64(pages.nan_to_num(), expected.nan_to_num())
        assert torch.equal(pages.isnan().cpu(), expected.isnan())
