"""Token sampling for a ragged set of rows, each with its own settings, without waiting for the device before the end.

Every draw uses one uniform number that depends only on (seed, draw index): results do not depend on who shares the batch. The number
picks a token by inverting the cumulative distribution over tokens sorted by probability.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from kernels.logit_changes import Changes, Ints
from kernels.readback import read_together
from kernels.token_counts import NO_TOKENS, TokenCounts
from kernels.upload import upload_tensor

_MASK_64 = (1 << 64) - 1
_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


class SamplingRow(NamedTuple):
    """How one row's token is drawn. ``temperature`` 0 is greedy; ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 are off.

    A tuple, because every row of every step has one: a frozen dataclass of so many fields takes four times as long to make.

    Attributes:
        seed: the request's seed; index: which draw of the request this is.
        suppressed: token ids that may not be drawn; bias: added to logits, by token id.
        written: tokens the penalties count; counts_fed: whether they also count the one the row was fed, which the device alone knows.
        num_logprobs: None for no log-probability, else how many alternatives to return beside the drawn token.
        allowed: which tokens may be drawn, one bit per id, lowest bit first; ids beyond it may not. None allows all.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    index: int = 0  # type: ignore[assignment]  # tuples have a method of that name
    suppressed: tuple[int, ...] = ()
    bias: Mapping[int, float] = {}
    written: TokenCounts = NO_TOKENS
    counts_fed: bool = False
    num_logprobs: int | None = None
    allowed: bytes | None = None


@dataclass(frozen=True, slots=True)
class DrawnLogprob:
    """Natural-log probabilities under the model (before temperature): of the drawn token, and of the likeliest tokens in order."""

    logprob: float
    top: list[tuple[int, float]]


class Drawn(NamedTuple):
    token_id: int
    logprob: DrawnLogprob | None


def uniforms(rows: Sequence[SamplingRow]) -> npt.NDArray[np.float64]:
    """Return the number in [0, 1) that belongs to each row's (seed, index): SplitMix64 (Steele et al. 2014) of both."""
    seeds = np.array([row.seed & _MASK_64 for row in rows], dtype=np.uint64)
    indices = np.array([row.index & _MASK_64 for row in rows], dtype=np.uint64)
    states = _mix(seeds) + (indices + np.uint64(1)) * _GOLDEN_GAMMA
    return (_mix(states) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(states: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    states = states + _GOLDEN_GAMMA
    states = (states ^ (states >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    states = (states ^ (states >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return states ^ (states >> np.uint64(31))


def find_unsound(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tell which rows of ``[num_rows, vocab]`` are finite, without waiting for the device.

    Returns:
        bool ``[num_rows]``, and the logits with zeros for the rows that are not: these may be drawn from like any other.
    """
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        # As in `_argmax`: numpy takes 4 us for 4 rows of 8,192 where torch takes 56, and to copy them once more takes 18.
        finite = np.isfinite(logits.numpy()).all(axis=-1)
        is_sound = torch.from_numpy(finite)
        return is_sound, logits if finite.all() else torch.where(is_sound[:, None], logits, 0.0)
    is_sound = torch.isfinite(logits).all(dim=-1)
    return is_sound, torch.where(is_sound[:, None], logits, 0.0)


def sample_tokens(logits: torch.Tensor, rows: list[SamplingRow], fed: torch.Tensor | None = None) -> list[Drawn]:
    """Draw one token per row and wait for the device, once; see `begin_draws`."""
    draws = begin_draws(logits, rows, fed)
    return draws.drawn(read_together(draws.columns))


def begin_draws(logits: torch.Tensor, rows: list[SamplingRow], fed: torch.Tensor | None = None) -> Draws:
    """Draw one token per row, without waiting for the device.

    Args:
        logits: ``[num_rows, vocab]``, any float dtype. Penalties, biases and suppressions are applied to it in place.
        rows: settings of each row; every id in them must be below ``vocab``.
        fed: int64 ``[num_rows]``, the token that each row was fed; where no row counts it, None will do.

    Returns:
        The draws, in row order, still on the device.
    """
    wanted = _Wanted(logits, rows)
    if logits.is_cuda:
        from kernels.sampling_triton import adjust_with_triton, draw_with_triton  # a machine without CUDA need not have Triton

        adjust_with_triton(logits, changes_of(rows), fed)
        forbid(logits, rows)
        return wanted.of(draw_with_triton(logits, upload_tensor(settings_table(rows), logits.device)))
    if fed is not None:
        rows = with_fed(rows, fed.tolist())
    adjust(logits, rows)
    forbid(logits, rows)
    return wanted.of(draw_by_sorting(logits, rows))


def with_fed(rows: Sequence[SamplingRow], fed_ids: Sequence[int]) -> list[SamplingRow]:
    """Return the rows as they are once it is known which tokens they were fed."""
    counted = zip(rows, fed_ids, strict=True)
    return [row._replace(written=row.written.with_another(fed), counts_fed=False) if row.counts_fed else row for row, fed in counted]


def changes_of(rows: Sequence[SamplingRow]) -> Changes:
    """Return which logits `adjust` changes and how, not to be written to; no logit is named twice."""
    if any(row.bias or row.counts_fed or row.written.token_ids for row in rows):
        return _changes_of(rows)
    return _suppressions(tuple(row.suppressed for row in rows))


@lru_cache(maxsize=64)
def _suppressions(by_row: tuple[tuple[int, ...], ...]) -> Changes:
    """Return the changes of rows that only suppress tokens: most steps have the same as the one before."""
    return _changes_of([SamplingRow(suppressed=suppressed) for suppressed in by_row])


def _changes_of(rows: Sequence[SamplingRow]) -> Changes:
    tokens, num_written = array("i"), array("i")
    starts: list[int] = []
    raised_at: list[int] = []
    raised_by: list[float] = []
    for row in rows:
        start, written = len(tokens), row.written
        starts.append(start)
        tokens.extend(written.token_ids)
        num_written.extend(written.counts)
        for token, amount in _raised(row).items():
            place = written.place_of(token)
            if place is None:
                place = len(tokens) - start
                tokens.append(token)
                num_written.append(0)
            raised_at.append(start + place)
            raised_by.append(amount)
        if row.counts_fed:
            tokens.append(-1)
            num_written.append(0)
    added = np.zeros(len(tokens))
    added[raised_at] = raised_by
    return _changes(rows, [*starts, len(tokens)], np.array(tokens, dtype=np.int32), np.array(num_written, dtype=np.int64), added)


def _raised(row: SamplingRow) -> dict[int, float]:
    """Return what is added to logits by biases and suppressions, by token."""
    suppressed = dict.fromkeys(row.suppressed, -math.inf)
    return {**row.bias, **suppressed} if row.bias else suppressed


def _changes(
    rows: Sequence[SamplingRow], starts: list[int], tokens: Ints, num_written: npt.NDArray[np.int64], added: npt.NDArray[np.float64]
) -> Changes:
    lengths = np.diff(starts)
    repetition, frequency, presence = _penalties(rows).repeat(lengths, axis=0).T
    is_written = num_written > 0
    table = np.empty((len(tokens), 6), dtype=np.int32)
    table[:, 0] = np.arange(len(rows)).repeat(lengths)
    table[:, 1] = tokens
    amounts = table[:, 2:].view(np.float32)
    amounts[:, 0] = np.where(is_written, repetition, 1.0)
    amounts[:, 1] = np.where(is_written, num_written * frequency + presence, 0.0)
    amounts[:, 2] = added
    amounts[:, 3] = (num_written + 1) * frequency + presence
    counting = [k for k, row in enumerate(rows) if row.counts_fed]
    spans = np.empty((len(counting), 4), dtype=np.int32)
    spans[:, :3] = np.array([[k, starts[k], starts[k + 1] - 1] for k in counting]).reshape(-1, 3)
    spans[:, 3:].view(np.float32)[:, 0] = [rows[k].repetition_penalty for k in counting]
    return Changes(table, spans)


def settings_table(rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Return float64 ``[num_rows, 5]`` on the host: temperature, top-k, top-p, min-p and the uniform number of each row."""
    settings = [(row.temperature, row.top_k, row.top_p, row.min_p) for row in rows]
    return torch.from_numpy(np.concatenate([np.array(settings, dtype=np.float64), uniforms(rows)[:, None]], axis=1))


def draw_by_sorting(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Draw one token a row of ``[num_rows, vocab]`` adjusted logits, on any device: int64 ``[num_rows]``."""
    token_ids = _argmax(logits)
    random_rows = [k for k, row in enumerate(rows) if row.temperature > 0.0]
    for needs_order in (False, True):
        group = [k for k in random_rows if _needs_order(rows[k]) is needs_order]
        if group:
            sample = _sample_ordered if needs_order else _sample
            places = _put(group, torch.int64, logits.device)
            token_ids[places] = sample(logits[places], [rows[k] for k in group])
    return token_ids


def _put(values: Sequence[float] | npt.NDArray[np.generic], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Bring numbers to the device without waiting for it."""
    return upload_tensor(torch.tensor(values, dtype=dtype), device)


def _argmax(logits: torch.Tensor) -> torch.Tensor:
    """Return the likeliest token of each row. On a CPU numpy's search is vectorised where torch's is not (16 x at 16 rows of 8,192)."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        return torch.from_numpy(logits.numpy().argmax(axis=-1))
    return logits.argmax(dim=-1)


def _needs_order(row: SamplingRow) -> bool:
    return row.top_k > 0 or row.top_p < 1.0


def adjust(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> None:
    """Apply penalties, biases and suppressed tokens in place, on any device."""
    _penalise(logits, rows)
    changes = [(k, token, bias) for k, row in enumerate(rows) for token, bias in row.bias.items()]
    suppressed_by_all = set(rows[0].suppressed).intersection(*(row.suppressed for row in rows[1:]))
    changes += [(k, token, -torch.inf) for k, row in enumerate(rows) for token in row.suppressed if token not in suppressed_by_all]
    if changes:
        row_index, token_ids, values = zip(*changes, strict=True)
        where = (_put(row_index, torch.int64, logits.device), _put(token_ids, torch.int64, logits.device))
        logits.index_put_(where, _put(values, logits.dtype, logits.device), accumulate=True)
    for token in suppressed_by_all:
        logits[:, token].fill_(-torch.inf)


def forbid(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> None:
    """Rule out, in place, every token that a row's bits do not allow."""
    allowed_by_row = {k: row.allowed for k, row in enumerate(rows) if row.allowed is not None}
    if not allowed_by_row:
        return
    num_bytes = -(-logits.shape[1] // 8)
    packed = b"".join(allowed[:num_bytes].ljust(num_bytes, b"\0") for allowed in allowed_by_row.values())
    masks = upload_tensor(torch.frombuffer(bytearray(packed), dtype=torch.uint8), logits.device).view(-1, num_bytes, 1)
    bits = (masks >> torch.arange(8, dtype=torch.uint8, device=logits.device)) & 1
    places = _put(list(allowed_by_row), torch.int64, logits.device)
    is_allowed = bits.view(len(places), -1)[:, : logits.shape[1]].bool()
    logits[places] = logits[places].masked_fill(~is_allowed, -torch.inf)


def _penalise(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> None:
    """Apply the penalties in place, to all tokens written so far in one go.

    OpenAI: presence, frequency; CTRL, Keskar et al. 2019: repetition.
    """
    lengths = [len(row.written.counts) for row in rows]
    if not any(lengths):
        return
    token_ids, counts = array("i"), array("i")
    for row in rows:
        token_ids.extend(row.written.token_ids)
        counts.extend(row.written.counts)
    factors, frequency, presence = _penalties(rows).repeat(lengths, axis=0).T
    row_index = _put(np.arange(len(rows)).repeat(lengths), torch.int64, logits.device)
    where = (row_index, _put(np.array(token_ids), torch.int64, logits.device))
    repetition = _put(factors, logits.dtype, logits.device)
    lowered = _put(np.array(counts) * frequency + presence, logits.dtype, logits.device)
    found = logits[where]
    logits.index_put_(where, torch.where(found > 0, found / repetition, found * repetition) - lowered)


def _penalties(rows: Sequence[SamplingRow]) -> npt.NDArray[np.float64]:
    """Return ``[num_rows, 3]``: repetition, frequency and presence penalty of each row."""
    return np.array([[row.repetition_penalty, row.frequency_penalty, row.presence_penalty] for row in rows])


def _column(values: list[float] | npt.NDArray[np.float64], logits: torch.Tensor) -> torch.Tensor:
    return _put(values, torch.float64, logits.device)[:, None]


def _probabilities(logits: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
    """Return float64 probabilities after temperature, zero where min-p drops a token; not normalised again."""
    probabilities = (logits.double() / _column([row.temperature for row in rows], logits)).softmax(dim=-1)
    if any(row.min_p > 0.0 for row in rows):
        least = _column([row.min_p for row in rows], logits) * probabilities.amax(dim=-1, keepdim=True)
        probabilities = probabilities * (probabilities >= least)
    return probabilities


def _sample(logits: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
    """Draw from ``[num_rows, vocab]`` logits, without top-k and top-p: int64 ``[num_rows]``."""
    return _invert(_probabilities(logits, rows), rows)


def _sample_ordered(logits: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
    """Draw from ``[num_rows, vocab]`` logits by top-k and top-p, over tokens sorted by probability: int64 ``[num_rows]``."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = _probabilities(ordered, rows)
    vocab = logits.shape[-1]
    rank = torch.arange(vocab, device=logits.device)
    probabilities = probabilities * (rank < _column([float(row.top_k or vocab) for row in rows], logits))
    before = probabilities.cumsum(dim=-1) - probabilities
    probabilities = probabilities * (before < _column([row.top_p for row in rows], logits) * probabilities.sum(dim=-1, keepdim=True))
    return order.gather(-1, _invert(probabilities, rows)[:, None])[:, 0]


def _invert(probabilities: torch.Tensor, rows: list[SamplingRow]) -> torch.Tensor:
    """Find where each row's uniform number falls in its cumulative distribution: int64 ``[num_rows]``."""
    cumulative = probabilities.cumsum(dim=-1)
    threshold = _column(uniforms(rows), probabilities) * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, threshold, right=True)
    last = (probabilities > 0).int().cumsum(dim=-1).argmax(dim=-1, keepdim=True)
    return torch.minimum(chosen, last)[:, 0]


@dataclass(frozen=True, slots=True)
class Draws:
    """Drawn tokens on the device.

    Attributes:
        columns: what the host must read of them (`kernels.readback`): the ids, and where log-probabilities are wanted, those of the drawn
            tokens, and the ids and log-probabilities of the likeliest, ``[num_wanted, width]``.
        num_top: how many of the likeliest each row wants that wants log-probabilities, by row.
    """

    columns: list[torch.Tensor]
    num_top: dict[int, int]

    def drawn(self, numbers: Sequence[Sequence[float]]) -> list[Drawn]:
        """Return the tokens once ``columns`` have been read."""
        ids = [int(number) for number in numbers[0]]
        if not self.num_top:
            return [Drawn(token_id, None) for token_id in ids]
        _, own, top_ids, top_logprobs = numbers
        width = len(top_ids) // len(own)
        logprobs = {}
        for place, (k, num) in enumerate(self.num_top.items()):
            top = slice(place * width, place * width + num)
            pairs = [(int(token_id), value) for token_id, value in zip(top_ids[top], top_logprobs[top], strict=True)]
            logprobs[k] = DrawnLogprob(own[place], pairs)
        return [Drawn(token_id, logprobs.get(k)) for k, token_id in enumerate(ids)]


class _Wanted:
    """The model's own log-probabilities of the rows that want them, before anything is adjusted."""

    def __init__(self, logits: torch.Tensor, rows: list[SamplingRow]) -> None:
        self._num_top = {k: row.num_logprobs for k, row in enumerate(rows) if row.num_logprobs is not None}
        if self._num_top:
            self._places = _put(list(self._num_top), torch.int64, logits.device)
            self._values = logits[self._places].float().log_softmax(dim=-1)
            self._top = self._values.topk(max(1, *self._num_top.values()), dim=-1)

    def of(self, token_ids: torch.Tensor) -> Draws:
        """Set the drawn tokens beside what is wanted of them."""
        if not self._num_top:
            return Draws([token_ids], {})
        own = self._values.gather(-1, token_ids[self._places][:, None])
        return Draws([token_ids, own, self._top.indices, self._top.values], self._num_top)
