"""How a token is drawn, in the kernels' terms."""

from __future__ import annotations

from kernels.sampling import SamplingRow
from server.engine.batch import Draw


def sampling_row(draw: Draw) -> SamplingRow:
    """Return what the kernels need to know of a draw; a grammar says now which tokens it allows."""
    params = draw.params
    return SamplingRow(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        seed=params.seed,
        index=draw.index,
        suppressed=draw.suppressed,
        bias=params.logit_bias,
        written=draw.written,
        counts_fed=draw.counts_fed,
        num_logprobs=params.logprobs if draw.wants_logprob else None,
        allowed=None if draw.grammar is None else draw.grammar.allowed(),
    )
