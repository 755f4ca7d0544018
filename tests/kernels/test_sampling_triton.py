"""The kernels that draw without sorting draw what the sorted way draws: the same token for the same number, whatever the settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.sampling import SamplingRow, adjust, changes_of, draw_by_sorting, settings_table, with_fed
from kernels.sampling_triton import BLOCK, FED_BLOCK, FIRST_STRIDE, adjust_with_triton, draw_with_triton
from kernels.token_counts import counts_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

rows_of_any_kind = st.builds(
    SamplingRow,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    top_k=st.sampled_from([0, 1, 7, 10**6]),
    top_p=st.sampled_from([0.0, 0.5, 0.95, 0.9999, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 1.0]),
    seed=st.integers(0, 2**63),
)


def random_logits(num_rows: int, vocab: int, scale: float, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(seed))


def draw(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> list[int]:
    return draw_with_triton(logits.to(DEVICE), settings_table(rows).to(DEVICE)).tolist()


def assert_draws_alike(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> None:
    assert draw(logits, rows) == draw_by_sorting(logits.clone(), rows).tolist(), rows


@settings(max_examples=10)
@given(
    st.lists(rows_of_any_kind, min_size=1, max_size=3),
    st.sampled_from([1, 5, 900]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.floats(0.01, 30.0),
)
def test_any_settings_draw_the_token_of_the_sorted_way(rows: list[SamplingRow], vocab: int, dtype: torch.dtype, scale: float) -> None:
    """In bfloat16 many logits are equal, and in a narrow spread nearly all: the first by id comes first."""
    assert_draws_alike(random_logits(len(rows), vocab, scale).to(dtype), rows)


@pytest.mark.parametrize("vocab", [BLOCK - 1, BLOCK + 1, 3 * BLOCK])
def test_a_vocabulary_of_several_blocks_is_drawn_from_all_over(vocab: int) -> None:
    plain = SamplingRow(temperature=1.0, seed=vocab)
    rows = [SamplingRow(), plain, plain._replace(min_p=0.1), plain._replace(top_k=40, top_p=0.9)]
    assert_draws_alike(random_logits(4, vocab, 2.0, seed=vocab), rows)


def test_more_candidates_than_a_program_looks_at_at_once_are_drawn_from() -> None:
    """Nearly even logits: the first stride down takes in every one of 5,000."""
    logits = 16.0 + random_logits(2, 5000, 0.001)
    assert (logits.max() - logits.min()) < FIRST_STRIDE.value * 2.0**-19
    assert_draws_alike(logits, [SamplingRow(temperature=1.0, top_p=0.7, seed=1), SamplingRow(temperature=1.0, top_k=4000, seed=2)])


def test_equal_logits_are_taken_in_the_order_of_their_ids() -> None:
    logits = torch.zeros(8, 100)
    rows = [SamplingRow(temperature=1.0, top_k=3, seed=k) for k in range(8)]
    assert_draws_alike(logits, rows)
    assert set(draw(logits, rows)) <= {0, 1, 2}


def test_forbidden_tokens_are_never_drawn_and_zeros_of_either_sign_are_one() -> None:
    logits = torch.full((4, 60), -math.inf)
    logits[:, 30], logits[:, 20] = 0.0, -0.0
    rows = [SamplingRow(), *(SamplingRow(temperature=1.0, top_p=p, seed=k) for k, p in enumerate((1.0, 0.4, 0.999)))]
    assert_draws_alike(logits, rows)
    assert set(draw(logits, rows)) <= {20, 30}


@pytest.mark.parametrize("number", [0.0, 1.0 - 2.0**-53])
@pytest.mark.parametrize("row", [SamplingRow(temperature=1.0), SamplingRow(temperature=1.0, top_p=0.6)], ids=["by id", "in order"])
def test_the_smallest_and_the_largest_number_fall_on_the_first_and_the_last_token_kept(number: float, row: SamplingRow) -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    table = settings_table([row])
    table[0, 4] = number
    last = 1 if row.top_p < 1.0 else 3
    assert draw_with_triton(logits.to(DEVICE), table.to(DEVICE)).tolist() == [last if number else 0]


penalised_rows = st.builds(
    SamplingRow,
    presence_penalty=st.sampled_from([0.0, 0.7, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.3]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    written=st.lists(st.integers(0, 39), max_size=20).map(counts_of),
    suppressed=st.lists(st.integers(0, 39), max_size=4, unique=True).map(tuple),
    bias=st.dictionaries(st.integers(0, 39), st.floats(-5.0, 5.0, width=16), max_size=4),
    counts_fed=st.booleans(),
)


def adjusted_on_device(logits: torch.Tensor, rows: list[SamplingRow], fed_ids: list[int]) -> torch.Tensor:
    found = logits.to(DEVICE, copy=True)
    adjust_with_triton(found, changes_of(rows), torch.tensor(fed_ids, device=DEVICE))
    return found.cpu()


@settings(max_examples=60)
@given(
    st.lists(st.tuples(penalised_rows, st.integers(0, 39)), min_size=1, max_size=4),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_penalties_biases_and_suppressions_change_a_logit_to_the_bit_as_one_after_the_other(
    rows_and_fed: list[tuple[SamplingRow, int]], dtype: torch.dtype
) -> None:
    """Also where penalties count a token that only the device knows, as where the host has told them of it."""
    rows, fed_ids = [row for row, _ in rows_and_fed], [fed for _, fed in rows_and_fed]
    logits = random_logits(len(rows), 40, 3.0).to(dtype)
    expected = logits.clone()
    adjust(expected, with_fed(rows, fed_ids))
    found = adjusted_on_device(logits, rows, fed_ids)
    # The interpreter cuts bfloat16 off where it should round, each of three times: a unit of the last place of numbers below 32.
    is_cut_off = DEVICE == "cpu" and dtype is torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.0, atol=3 * 2.0**-3 if is_cut_off else 0.0)


@pytest.mark.parametrize("fed", [0, FED_BLOCK - 1, FED_BLOCK, 2 * FED_BLOCK + 6, 2 * FED_BLOCK + 7, 3 * FED_BLOCK])
def test_a_token_is_counted_wherever_it_stands_among_the_many_of_a_long_answer(fed: int) -> None:
    """The answer holds tokens 0 up to 2 x FED_BLOCK + 6, three of each but the last."""
    written = counts_of(k // 3 for k in range(3 * 2 * FED_BLOCK + 19))
    rows = [SamplingRow(frequency_penalty=0.1, repetition_penalty=1.2, written=written, counts_fed=True), SamplingRow()]
    logits = random_logits(2, 4 * FED_BLOCK, 3.0)
    expected = logits.clone()
    adjust(expected, with_fed(rows, [fed, 5]))
    assert torch.equal(adjusted_on_device(logits, rows, [fed, 5]), expected)


def test_a_row_is_drawn_alike_in_any_company() -> None:
    logits = random_logits(3, 300, 2.0)
    rows = [SamplingRow(temperature=1.0, top_p=0.9, seed=k) for k in range(3)]
    assert draw(logits, rows) == [draw(logits[k : k + 1], rows[k : k + 1])[0] for k in range(3)]
