"""The row-wise ops and products on the CPU, native and torch, against their float64 twins."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import reference
from kernels.linear import linear
from kernels.native_kernels import linear_fits, native_kernels, qk_norm_rope_fits
from kernels.qk_norm_rope import qk_norm_rope
from kernels.rms_norm import rms_norm
from kernels.silu_mul import silu_mul
from tests.kernels.accuracy import assert_close_to_float64

EPS = 1e-6
DTYPES = [torch.float32, torch.bfloat16]
sizes = st.one_of(st.integers(1, 40), st.sampled_from([64, 127, 128, 129, 520]))


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 130), sizes, sizes, st.booleans(), st.sampled_from(DTYPES))
def test_linear_of_any_size_equals_its_reference(num_rows: int, num_outputs: int, depth: int, has_bias: bool, dtype: torch.dtype) -> None:
    x, weight = draw(num_rows, depth, dtype=dtype), draw(num_outputs, depth, dtype=dtype, seed=1) * depth**-0.5
    bias = draw(num_outputs, dtype=dtype, seed=2) if has_bias else None
    expected = reference.linear(x.double(), weight.double(), None if bias is None else bias.double())
    with torch.no_grad():
        assert_close_to_float64(linear(x, weight, bias), expected)


@pytest.mark.parametrize("num_rows", [5, 100])
def test_linear_is_native_and_takes_rows_that_are_apart(num_rows: int) -> None:
    x, weight = draw(num_rows, 96)[:, :64], draw(48, 64, seed=1)
    native = native_kernels()
    assert native is not None
    with torch.no_grad():
        assert linear_fits(x, weight, None)
        assert_close_to_float64(native.linear(x, weight, None), reference.linear(x.double(), weight.double(), None))


def test_linear_of_no_rows_is_empty() -> None:
    with torch.no_grad():
        assert linear(draw(0, 8), draw(6, 8)).shape == (0, 6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 70), sizes, st.sampled_from(DTYPES))
def test_rms_norm_of_any_size_equals_its_reference(num_rows: int, dim: int, dtype: torch.dtype) -> None:
    x, weight = draw(num_rows, dim, dtype=dtype), draw(dim, dtype=dtype, seed=1)
    with torch.no_grad():
        assert_close_to_float64(rms_norm(x, weight, EPS), reference.rms_norm(x.double(), weight.double(), EPS))


@pytest.mark.parametrize("records_gradients", [False, True], ids=["native", "torch"])
def test_rms_norm_rounds_to_the_input_dtype_before_the_weight(records_gradients: bool) -> None:
    """BAGEL's order: 1.0039 rounds to 1.0 in bfloat16 and only then meets the weight."""
    x = torch.tensor([[1.0, 1.0078125]], dtype=torch.bfloat16)
    weight = torch.tensor([256.0, 256.0], dtype=torch.bfloat16)
    normed = (x.float() * torch.rsqrt(x.float().square().mean(dim=-1, keepdim=True) + EPS)).to(torch.bfloat16)
    with torch.set_grad_enabled(records_gradients):
        assert torch.equal(rms_norm(x, weight, EPS), normed * weight)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 70), sizes, st.sampled_from(DTYPES))
def test_silu_mul_of_any_size_equals_its_reference(num_rows: int, width: int, dtype: torch.dtype) -> None:
    gate_up = 3.0 * draw(num_rows, 2 * width, dtype=dtype)
    expected = reference.silu_mul(gate_up.double())
    with torch.no_grad():
        # Products of magnitude up to 100 here: the bound of `accuracy` is relative beyond 1.
        assert_close_to_float64(silu_mul(gate_up), expected)


def test_silu_mul_of_extreme_gates_is_their_limit() -> None:
    gate = torch.tensor([[-1e30, -200.0, -90.0, 0.0, 200.0, 1e30, float("inf"), float("nan")]])
    with torch.no_grad():
        out = silu_mul(torch.cat((gate, torch.ones_like(gate)), dim=1))[0]
    assert out[:3].abs().max() < 1e-5
    assert out[3:7].tolist() == [0.0, 200.0, pytest.approx(1e30), float("inf")]
    assert out[7].isnan()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.sampled_from([(4, 4), (4, 1), (7, 1)]), st.sampled_from([2, 16, 64, 72, 128]), st.sampled_from(DTYPES))
def test_qk_norm_rope_equals_its_reference(num_tokens: int, heads: tuple[int, int], head_dim: int, dtype: torch.dtype) -> None:
    qkv = draw(num_tokens, heads[0] + 2 * heads[1], head_dim, dtype=dtype)
    q, k, _ = qkv.split((heads[0], heads[1], heads[1]), dim=1)
    weights = draw(head_dim, dtype=dtype, seed=1), draw(head_dim, dtype=dtype, seed=2)
    angle = 100.0 * draw(num_tokens, head_dim, seed=3)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    expected = reference.qk_norm_rope(q.double(), k.double(), *(x.double() for x in (*weights, cos, sin)), eps=EPS)
    with torch.no_grad():
        assert qk_norm_rope_fits(q, k, weights[0], (cos, sin)) is (dtype is torch.float32)
        for actual, wanted in zip(qk_norm_rope(q, k, *weights, cos, sin, EPS), expected, strict=True):
            assert_close_to_float64(actual, wanted)


def test_gradients_flow_through_every_op() -> None:
    x, weight = draw(3, 8).double().requires_grad_(), draw(8, seed=1).double().requires_grad_()
    matrix = draw(5, 8, seed=2).double().requires_grad_()
    q, angle = draw(3, 2, 8, seed=3).double().requires_grad_(), draw(3, 8, seed=4).double()
    assert torch.autograd.gradcheck(lambda a, b: rms_norm(a, b, EPS), (x, weight))
    assert torch.autograd.gradcheck(silu_mul, (x,))
    assert torch.autograd.gradcheck(linear, (x, matrix))
    assert torch.autograd.gradcheck(lambda a, b: qk_norm_rope(a, a, b, b, angle.cos(), angle.sin(), EPS), (q, weight))
