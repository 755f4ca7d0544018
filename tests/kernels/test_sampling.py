"""Sampling draws from the distribution it states, depends only on (seed, draw index), and obeys every setting."""

from __future__ import annotations

import math

import pytest
import torch

from kernels.sampling import SamplingRow, find_unsound, sample_tokens, uniforms
from kernels.token_counts import counts_of

VOCAB = 40
NUM_DRAWS = 4000


def random_logits(num_rows: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(seed)).mul(2).to(dtype)


def draw(logits: torch.Tensor, row: SamplingRow) -> int:
    return sample_tokens(logits[None].clone(), [row])[0].token_id


def draw_many(logits: torch.Tensor, settings: SamplingRow) -> torch.Tensor:
    """Return how often each token came in NUM_DRAWS draws."""
    rows = [settings._replace(seed=5, index=k) for k in range(NUM_DRAWS)]
    drawn = sample_tokens(logits.repeat(NUM_DRAWS, 1), rows)
    return torch.bincount(torch.tensor([token.token_id for token in drawn]), minlength=VOCAB) / NUM_DRAWS


def total_variation(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().sum() / 2)


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = random_logits(3)

    assert [token.token_id for token in sample_tokens(logits, [SamplingRow()] * 3)] == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    logits = random_logits(1)[0]

    found = draw_many(logits, SamplingRow(temperature=temperature))

    # The expected total variation of NUM_DRAWS draws over VOCAB tokens is about sqrt(VOCAB / NUM_DRAWS) / 2 = 0.05.
    assert total_variation(found, (logits.double() / temperature).softmax(-1)) < 0.06


def test_top_k_keeps_the_k_likeliest() -> None:
    logits = random_logits(1)[0]
    found = draw_many(logits, SamplingRow(temperature=1.0, top_k=5))

    kept = set(logits.topk(5).indices.tolist())
    assert set(found.nonzero()[:, 0].tolist()) <= kept
    assert total_variation(found[sorted(kept)], logits[sorted(kept)].double().softmax(-1)) < 0.05


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    logits = torch.cat([logits, torch.full((VOCAB - 4,), -math.inf)])

    found = draw_many(logits, SamplingRow(temperature=1.0, top_p=0.75))

    assert found.nonzero()[:, 0].tolist() == [0, 1]


def test_min_p_drops_what_is_unlikely_beside_the_likeliest() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    logits = torch.cat([logits, torch.full((VOCAB - 4,), -math.inf)])

    assert draw_many(logits, SamplingRow(temperature=1.0, min_p=0.2)).nonzero()[:, 0].tolist() == [0, 1, 2]


def test_a_draw_depends_on_seed_and_index_alone() -> None:
    logits = random_logits(9)
    rows = [SamplingRow(temperature=1.0, top_p=0.9 if k % 2 else 1.0, seed=3, index=k) for k in range(9)]

    together = [token.token_id for token in sample_tokens(logits.clone(), rows)]
    alone = [draw(logits[k], rows[k]) for k in range(9)]

    assert together == alone
    rows = [SamplingRow(seed=seed, index=k) for seed in (3, 4) for k in range(1000)]
    assert len({*uniforms(rows).tolist()}) == 2000


def test_greedy_and_random_rows_share_a_batch() -> None:
    logits = random_logits(2)
    rows = [SamplingRow(), SamplingRow(temperature=1.0, seed=1)]

    first, second = sample_tokens(logits.clone(), rows)

    assert first.token_id == int(logits[0].argmax())
    assert second.token_id == draw(logits[1], rows[1])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_suppressed_tokens_are_never_drawn(temperature: float) -> None:
    logits = random_logits(1)[0]
    best = int(logits.argmax())

    drawn = {draw(logits, SamplingRow(temperature=temperature, seed=2, index=k, suppressed=(best,))) for k in range(200)}

    assert best not in drawn


def test_bias_moves_a_token_to_the_top() -> None:
    assert draw(random_logits(1)[0], SamplingRow(bias={7: 100.0})) == 7


def test_a_token_suppressed_by_one_row_may_be_drawn_by_another() -> None:
    logits = torch.zeros(2, VOCAB)
    logits[:, 9] = 5.0

    first, second = sample_tokens(logits, [SamplingRow(suppressed=(9, 4)), SamplingRow(suppressed=(4,))])

    assert first.token_id not in (9, 4)
    assert second.token_id == 9


def test_penalties_lower_what_was_written() -> None:
    logits = torch.zeros(VOCAB)
    logits[3], logits[4] = 2.0, 1.5

    assert draw(logits, SamplingRow(presence_penalty=1.0, written=counts_of((3,)))) == 4
    assert draw(logits, SamplingRow(frequency_penalty=0.3, written=counts_of((3, 3)))) == 4
    assert draw(logits, SamplingRow(repetition_penalty=2.0, written=counts_of((3,)))) == 4
    assert draw(logits, SamplingRow(frequency_penalty=0.2, written=counts_of((3, 3)))) == 3


def test_repetition_penalty_lowers_negative_logits_too() -> None:
    logits = torch.full((VOCAB,), -9.0)
    logits[3], logits[4] = -2.0, -3.0

    assert draw(logits, SamplingRow(repetition_penalty=2.0, written=counts_of((3,)))) == 4


def test_a_token_that_the_row_was_fed_is_counted_where_the_row_says_so() -> None:
    logits = torch.zeros(2, VOCAB)
    logits[:, 3], logits[:, 4] = 2.0, 1.5
    counting = SamplingRow(frequency_penalty=0.3, written=counts_of((3,)), counts_fed=True)
    drawn = sample_tokens(logits, [counting, counting._replace(counts_fed=False)], torch.tensor([3, 3]))
    assert [token.token_id for token in drawn] == [4, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprobs_are_the_models_own(dtype: torch.dtype) -> None:
    logits = random_logits(2, dtype=dtype)
    rows = [SamplingRow(temperature=0.5, seed=1, suppressed=(2,), num_logprobs=3), SamplingRow()]

    expected = logits[0].double().log_softmax(-1)

    first, second = sample_tokens(logits, rows)

    assert second.logprob is None
    assert first.logprob is not None
    # Float32 log-softmax of float32 input: a few ulp.
    assert first.logprob.logprob == pytest.approx(float(expected[first.token_id]), abs=1e-5)
    assert [token for token, _ in first.logprob.top] == expected.topk(3).indices.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("unsound", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_are_found_and_become_harmless(dtype: torch.dtype, unsound: float) -> None:
    logits = random_logits(3, dtype=dtype)
    sound_rows = logits[[0, 2]].clone()
    logits[1, 7] = unsound

    is_sound, harmless = find_unsound(logits)

    assert is_sound.tolist() == [True, False, True]
    assert torch.equal(harmless[[0, 2]], sound_rows)
    assert harmless[1].tolist() == [0.0] * logits.shape[1]
