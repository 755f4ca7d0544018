"""As much of a prompt goes into a step as the cost model says there is time for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.engine.batch import TextPiece
from server.engine.budget import StepBudget
from server.engine.cost_model import CostModel
from server.engine.loads import chunk_load

MAX_TOKENS = 500


@st.composite
def cost_models(draw: st.DrawFn) -> CostModel:
    """One that has learnt from prompts whose tokens cost something, or whose pairs do, or both, or neither."""
    token_s, pair_s = draw(st.sampled_from([0.0, 1e-5, 1e-3])), draw(st.sampled_from([0.0, 1e-8, 1e-6]))
    cost = CostModel()
    for num, kv_len in draw(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 3000)), max_size=40)):
        load = chunk_load([TextPiece((7,) * num)], kv_len)
        cost.observe(load, 1e-3 + token_s * load.und_tokens + pair_s * load.pairs)
    return cost


@given(cost_models(), st.integers(0, 4000), st.floats(1e-4, 0.5), st.integers(1, MAX_TOKENS), st.integers(0, 60))
def test_the_most_tokens_are_taken_that_the_step_is_over_in_time_with(
    cost: CostModel, kv_len: int, seconds: float, tokens: int, num_before: int
) -> None:
    budget = StepBudget(cost, tokens, seconds, 0.0)
    if num_before:
        budget.take(chunk_load([TextPiece((7,) * num_before)], 0), num_before)
    found = budget.tokens_for_text(kv_len)

    def fits(num: int) -> bool:
        return budget.fits(chunk_load([TextPiece((7,) * num)], kv_len))

    assert 0 <= found <= tokens
    assert not found or fits(found) or (found == 1 and not num_before), "a step that holds nothing takes one token at least"
    assert found >= tokens - num_before or not fits(found + 1)
