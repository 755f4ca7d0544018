"""Token sampling for a ragged set of rows, each with its own settings, without a host sync before the end.

Every draw uses one uniform number that depends only on (seed, draw index): results do not depend on who shares the batch. The number
picks a token by inverting the cumulative distribution over tokens sorted by probability.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

_MASK_64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """How one row's token is drawn. ``temperature`` 0 is greedy; ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 are off.

    Attributes:
        seed: the request's seed; index: which draw of the request this is.
        suppressed: token ids that may not be drawn; bias: added to logits, by token id.
        text_ids: tokens the penalties count.
        num_logprobs: None for no log-probability, else how many alternatives to return beside the drawn token.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    index: int = 0
    suppressed: tuple[int, ...] = ()
    bias: dict[int, float] = field(default_factory=dict)
    text_ids: tuple[int, ...] = ()
    num_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class DrawnLogprob:
    """Natural-log probabilities under the model (before temperature): of the drawn token, and of the likeliest tokens in order."""

    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Drawn:
    token_id: int
    logprob: DrawnLogprob | None


def uniform(seed: int, index: int) -> float:
    """Return the number in [0, 1) that belongs to (seed, index): SplitMix64 (Steele et al. 2014) of both."""
    state = (_mix(seed & _MASK_64) + (index + 1) * 0x9E3779B97F4A7C15) & _MASK_64
    return (_mix(state) >> 11) * 2.0**-53


def _mix(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK_64
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return state ^ (state >> 31)


def sample_tokens(logits: torch.Tensor, rows: list[SamplingRow]) -> list[Drawn]:
    """Draw one token per row.

    Args:
        logits: ``[num_rows, vocab]``, any float dtype; not changed.
        rows: settings of each row; every id in them must be below ``vocab``.

    Returns:
        The drawn tokens, in row order. This waits for the device.
    """
    adjusted = _adjust(logits, rows)
    token_ids = adjusted.argmax(dim=-1)
    random_rows = [k for k, row in enumerate(rows) if row.temperature > 0.0]
    if random_rows:
        index = torch.tensor(random_rows, device=logits.device)
        token_ids[index] = _sample(adjusted[index], [rows[k] for k in random_rows])
    drawn = token_ids.tolist()
    logprobs = _logprobs(logits, drawn, rows)
    return [Drawn(token_id, logprobs.get(k)) for k, token_id in enumerate(drawn)]


def _adjust(logits: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
    """Return logits with penalties, biases and suppressed tokens applied; the input itself when there are none."""
    changes = [(k, token, -torch.inf) for k, row in enumerate(rows) for token in row.suppressed]
    biases = [(k, token, bias) for k, row in enumerate(rows) for token, bias in row.bias.items()]
    penalised = [k for k, row in enumerate(rows) if row.text_ids]
    if not changes and not biases and not penalised:
        return logits
    adjusted = logits.float() if logits.dtype != torch.float32 else logits.clone()
    for k in penalised:
        _penalise(adjusted[k], rows[k])
    if biases or changes:
        where = torch.tensor([(k, token) for k, token, _ in biases + changes], device=logits.device)
        what = torch.tensor([value for _, _, value in biases + changes], device=logits.device)
        adjusted.index_put_((where[:, 0], where[:, 1]), what, accumulate=True)
    return adjusted


def _penalise(logits: torch.Tensor, row: SamplingRow) -> None:
    """Apply the penalties of one row in place (OpenAI: presence, frequency; CTRL, Keskar et al. 2019: repetition)."""
    token_ids = torch.tensor(row.text_ids, device=logits.device)
    counts = torch.bincount(token_ids, minlength=logits.shape[0]).to(logits.dtype)
    seen = counts > 0
    if row.repetition_penalty != 1.0:
        repeated = torch.where(logits > 0, logits / row.repetition_penalty, logits * row.repetition_penalty)
        logits.copy_(torch.where(seen, repeated, logits))
    logits -= counts * row.frequency_penalty + seen.to(logits.dtype) * row.presence_penalty


def _sample(logits: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
    """Draw from ``[num_rows, vocab]`` logits by top-k, min-p and top-p over tokens sorted by probability: int64 ``[num_rows]``."""

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    vocab = logits.shape[-1]
    scaled = logits.double() / column([row.temperature for row in rows])
    probabilities, order = scaled.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(vocab, device=logits.device)
    keep = rank < column([float(row.top_k or vocab) for row in rows])
    keep &= probabilities >= column([row.min_p for row in rows]) * probabilities[:, :1]
    probabilities = probabilities * keep
    total = probabilities.sum(dim=-1, keepdim=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    probabilities = probabilities * (before < column([row.top_p for row in rows]) * total)
    cumulative = probabilities.cumsum(dim=-1)
    threshold = column([uniform(row.seed, row.index) for row in rows]) * cumulative[:, -1:]
    chosen = (cumulative <= threshold).sum(dim=-1, keepdim=True)
    last = (probabilities > 0).sum(dim=-1, keepdim=True) - 1
    return order.gather(-1, torch.minimum(chosen, last))[:, 0]


def _logprobs(logits: torch.Tensor, drawn: list[int], rows: list[SamplingRow]) -> dict[int, DrawnLogprob]:
    wanted = [k for k, row in enumerate(rows) if row.num_logprobs is not None]
    if not wanted:
        return {}
    values = logits[torch.tensor(wanted, device=logits.device)].float().log_softmax(dim=-1)
    most = max(rows[k].num_logprobs or 0 for k in wanted)
    top = values.topk(most, dim=-1) if most else None
    result: dict[int, DrawnLogprob] = {}
    for place, k in enumerate(wanted):
        alternatives: list[tuple[int, float]] = []
        if top is not None:
            num = rows[k].num_logprobs or 0
            alternatives = list(zip(top.indices[place, :num].tolist(), top.values[place, :num].tolist(), strict=True))
        result[k] = DrawnLogprob(float(values[place, drawn[k]]), alternatives)
    return result
