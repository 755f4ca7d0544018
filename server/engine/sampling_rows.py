"""How a token is drawn, in the kernels' terms."""

from __future__ import annotations

from collections.abc import Iterable

from kernels.sampling import SamplingRow
from server.engine.batch import Draw
from server.engine.grammar import GrammarStopped


def sampling_rows(draws: Iterable[tuple[int, Draw]], stopped: dict[int, str]) -> list[SamplingRow]:
    """Return what the kernels need to know of the draws of sequences.

    Whose grammar cannot be followed any further is put into ``stopped``, with what to say of it; its row is drawn from like any other.
    """
    rows = []
    for sequence_id, draw in draws:
        try:
            rows.append(sampling_row(draw))
        except GrammarStopped as error:
            stopped[sequence_id] = str(error)
            rows.append(SamplingRow())
    return rows


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
