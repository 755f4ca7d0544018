"""8-bit floats: rows rounded as stated, products of them as close as such rounding allows, no row touching another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.fp8 import MAX_FP8, Fp8Rows
from kernels.fp8_triton import BLOCK, quantize_rows_with_triton
from kernels.linear import FEW_ROWS, MANY_COLUMNS, fp8_linear, scaled_product
from kernels.norm_to_fp8_triton import add_rms_norm_to_fp8_with_triton, rms_norm_to_fp8_with_triton
from kernels.quantize import quantize_rows_with_torch
from kernels.rms_norm import add_rms_norm
from kernels.silu_mul import silu_mul
from kernels.silu_mul_to_fp8_triton import silu_mul_to_fp8_with_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
EPS = 1e-6
HALF_STEP = 2.0**-4
"""e4m3 has three bits behind the point: a number is rounded by at most half of its last one."""
TINY = 2.0**-10 / MAX_FP8
"""Half the distance of the smallest numbers, as a share of the row's largest."""


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_is_rounded(rows: Fp8Rows, x: torch.Tensor) -> None:
    wide = x.double().cpu()
    largest = wide.abs().amax(dim=-1, keepdim=True)
    bound = 1.001 * torch.maximum(HALF_STEP * wide.abs(), TINY * largest)
    assert ((rows.wide().double().cpu() - wide).abs() <= bound).all()


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 300), st.sampled_from(DTYPES), st.integers(-20, 12))
def test_each_row_is_rounded_to_its_own_scale(num_rows: int, width: int, dtype: torch.dtype, exponent: int) -> None:
    x = draw(num_rows, width, seed=width).mul(2.0**exponent).to(dtype)
    rows = quantize_rows_with_torch(x)
    assert_is_rounded(rows, x)
    torch.testing.assert_close(rows.scales * MAX_FP8, x.float().abs().amax(dim=-1).clamp(min=1e-12), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 515, BLOCK, BLOCK + 16])
def test_the_kernel_rounds_like_the_reference(width: int, dtype: torch.dtype) -> None:
    x = draw(3, 2 * width, dtype=dtype)[:, :width]
    assert_rounded_alike(quantize_rows_with_triton(x.to(DEVICE)), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 515, 3584])
def test_a_norm_straight_to_8_bits_is_the_norm_and_then_the_rounding(width: int, dtype: torch.dtype) -> None:
    branch, residual, weight = (draw(n, width, dtype=dtype, seed=n) for n in (3, 3, 1))
    total, normed = add_rms_norm(branch.clone(), residual, weight[0], EPS)
    assert_is_rounded_from(rms_norm_to_fp8_with_triton(total.to(DEVICE), weight[0].to(DEVICE), EPS), normed)
    found_total, found = add_rms_norm_to_fp8_with_triton(branch.to(DEVICE), residual.to(DEVICE), weight[0].to(DEVICE), EPS)
    assert torch.equal(found_total.cpu(), total)
    assert_is_rounded_from(found, normed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 515, BLOCK + 16])
def test_a_gate_straight_to_8_bits_is_the_gate_and_then_the_rounding(width: int, dtype: torch.dtype) -> None:
    gate_up = draw(3, 2 * width, dtype=dtype, seed=4)
    assert_is_rounded_from(silu_mul_to_fp8_with_triton(gate_up.to(DEVICE)), silu_mul(gate_up))


def assert_rounded_alike(found: Fp8Rows, x: torch.Tensor) -> None:
    """To the same number, or to one as near: half way between two the last bit of a quotient decides."""
    expected = quantize_rows_with_torch(x)
    torch.testing.assert_close(found.scales.cpu(), expected.scales, rtol=1e-6, atol=0)
    scaled, reference = x.float() / expected.scales[:, None], expected.values.float()
    is_further = (found.values.cpu().float() - scaled).abs() > (reference - scaled).abs() * 1.001 + 1e-4
    if DEVICE == "cpu":
        is_further &= ~is_rounded_up_to_a_power_of_two(scaled, reference)
    assert not is_further.any()


def assert_is_rounded_from(found: Fp8Rows, x: torch.Tensor) -> None:
    """What ``x`` is rounded from may differ from it in its last bit, and so may what is as far from two 8-bit numbers."""
    wide, unit = x.double(), torch.finfo(x.dtype).eps
    torch.testing.assert_close(found.scales.cpu(), quantize_rows_with_torch(x).scales, rtol=max(2 * unit, 1e-6), atol=0)
    largest = wide.abs().amax(dim=-1, keepdim=True)
    tiny = 2 * TINY if DEVICE == "cpu" else TINY  # the interpreter cuts the smallest numbers off
    bound = 1.001 * torch.maximum(HALF_STEP * wide.abs(), tiny * largest) + 2 * unit * largest
    is_off = (found.wide().double().cpu() - wide).abs() > bound
    if DEVICE == "cpu":
        values = found.values.float()
        is_off &= ~((values.abs().frexp()[0] == 0.5) & (x.float().abs() > 1.9 * values.abs() * found.scales[:, None]))
    assert not is_off.any()


def is_rounded_up_to_a_power_of_two(scaled: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """Tell where Triton's interpreter is wrong: it does not carry from the digits into the exponent, and makes 64 of 127.9."""
    mantissa, _ = rounded.abs().frexp()
    return (mantissa == 0.5) & (scaled.abs() < rounded.abs())


@pytest.mark.parametrize("quantize", [quantize_rows_with_torch, quantize_rows_with_triton], ids=["torch", "triton"])
def test_what_is_not_finite_stays_so_and_zeros_stay_zeros(quantize: Callable[[torch.Tensor], Fp8Rows]) -> None:
    x = draw(4, 64)
    x[0, 3], x[1, 5], x[2] = torch.nan, torch.inf, 0.0
    wide = quantize(x.to(DEVICE)).wide()
    assert torch.isfinite(wide).all(dim=-1).tolist() == [False, False, True, True]
    assert torch.equal(wide[2].cpu(), torch.zeros(64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_product_is_that_of_the_rounded_rows(dtype: torch.dtype, has_bias: bool) -> None:
    x, weight = draw(7, 96, dtype=dtype), quantize_rows_with_torch(draw(48, 96, seed=1))
    bias = draw(48, dtype=dtype, seed=2) if has_bias else None
    rounded = quantize_rows_with_torch(x).wide().double()
    expected = rounded @ weight.wide().double().T + (0.0 if bias is None else bias.double())
    found = fp8_linear(x, weight, bias)
    assert found.dtype is dtype
    # Sums of 96 products of unit variance; bfloat16 rounds the result to 2^-8 of numbers below 64.
    torch.testing.assert_close(found.double(), expected, rtol=2.0**-8 if dtype is torch.bfloat16 else 1e-5, atol=1e-4)


@pytest.mark.parametrize("num_rows", [1, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize(("width", "has_bias"), [(64, False), (64, True), (MANY_COLUMNS + 16, False)])
def test_the_librarys_product_is_the_same(num_rows: int, width: int, has_bias: bool) -> None:
    """Also where it has none with scales of rows and channels, and they are put on afterwards."""
    rows, weight = (quantize_rows_with_torch(draw(num, width, seed=num)) for num in (num_rows, 48))
    bias = draw(48, dtype=torch.bfloat16, seed=2) if has_bias else None
    expected = rows.wide().double() @ weight.wide().double().T + (0.0 if bias is None else bias.double())
    there, weight_there = (Fp8Rows(one.values.to(DEVICE), one.scales.to(DEVICE)) for one in (rows, weight))
    found = scaled_product(there, weight_there, torch.bfloat16, None if bias is None else bias.to(DEVICE))
    assert found.dtype is torch.bfloat16
    # Two roundings to bfloat16 at most, and sums of thousands of numbers of unit variance.
    torch.testing.assert_close(found.cpu().double(), expected, rtol=2.0**-7, atol=1e-3 * width**0.5)


def test_the_product_stays_near_that_of_the_wide_rows() -> None:
    """Two roundings of relative standard deviation some 2^-4 / sqrt(3) x 0.7 each, averaged over the sum: 3.6 % together."""
    x, weight = draw(64, 512), draw(256, 512, seed=1)
    expected = x.double() @ weight.double().T
    found = fp8_linear(x, quantize_rows_with_torch(weight))
    assert float((found.double() - expected).norm() / expected.norm()) < 0.045


def test_a_row_of_a_product_is_the_same_to_the_bit_in_any_company() -> None:
    x, weight = draw(33, 64), quantize_rows_with_torch(draw(48, 64, seed=1))
    with torch.no_grad():
        together = fp8_linear(x, weight)
        assert torch.equal(torch.cat([fp8_linear(row[None], weight) for row in x]), together)
