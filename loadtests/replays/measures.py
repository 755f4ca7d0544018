"""The figures of a replay: throughput, waiting times, evenness of the words, fairness."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import mean

from loadtests.percentile import percentile
from loadtests.replays.timeline import Record, Replayed


def jain(values: Iterable[float]) -> float:
    """Return Jain's index of fairness: 1 when all are equal, 1/n when one has everything (Jain, Chiu, Hawe 1984)."""
    listed = list(values)
    squares = sum(value * value for value in listed)
    return sum(listed) ** 2 / (len(listed) * squares) if squares else math.nan


@dataclass(frozen=True, slots=True)
class Measures:
    """One policy under one load. Times in seconds; ``nan`` where nothing of the kind was asked for.

    Attributes:
        num_failed: requests that ended in an error.
        span_s: from the first arrival to the end of the last answer, all replays together.
        weighted_per_s: words and latent tokens of finished pictures per second, each counting one.
        slowdown_by_lane, slowdown_by_tenant: mean of a request's latency over its latency on an idle machine.
        fairness: Jain's index over the tenants' mean slowdowns.
    """

    num_requests: int
    num_failed: int
    span_s: float
    tokens_per_s: float
    pictures_per_s: float
    weighted_per_s: float
    first_token_mean_s: float
    first_token_p99_s: float
    gap_p50_s: float
    gap_p99_s: float
    first_picture_mean_s: float
    first_picture_p99_s: float
    slowdown_by_lane: dict[str, float]
    slowdown_by_tenant: dict[str, float]
    fairness: float


def measure(replays: list[Replayed]) -> Measures:
    """Compute the figures of one policy over its replays under one load."""
    records = [record for replayed in replays for record in replayed.records]
    span_s = sum(replayed.span_s for replayed in replays)
    num_tokens = sum(record.num_tokens for record in records)
    num_latents = sum(record.picture_tokens for record in records)
    first_tokens, first_pictures, gaps = first_token_waits(records), first_picture_waits(records), word_gaps(records)
    by_tenant = _slowdowns(records, lambda record: record.tenant)
    return Measures(
        num_requests=len(records),
        num_failed=sum(record.has_failed for record in records),
        span_s=span_s,
        tokens_per_s=num_tokens / span_s,
        pictures_per_s=sum(len(record.picture_times) for record in records) / span_s,
        weighted_per_s=(num_tokens + num_latents) / span_s,
        first_token_mean_s=average(first_tokens),
        first_token_p99_s=percentile(first_tokens, 99),
        gap_p50_s=percentile(gaps, 50),
        gap_p99_s=percentile(gaps, 99),
        first_picture_mean_s=average(first_pictures),
        first_picture_p99_s=percentile(first_pictures, 99),
        slowdown_by_lane=_slowdowns(records, lambda record: record.lane),
        slowdown_by_tenant=by_tenant,
        fairness=jain(by_tenant.values()),
    )


def first_token_waits(records: list[Record]) -> list[float]:
    """Return the times to first token of the requests that have words."""
    return [record.first_token_s for record in records if record.first_token_s is not None]


def first_picture_waits(records: list[Record]) -> list[float]:
    """Return the times to first picture of the requests that have pictures."""
    return [record.first_picture_s for record in records if record.first_picture_s is not None]


def word_gaps(records: list[Record]) -> list[float]:
    """Return the times between neighbouring words, of all texts."""
    return [gap for record in records for gap in record.gaps_s]


def average(values: list[float]) -> float:
    """Return the mean; nan of none."""
    return mean(values) if values else math.nan


def _slowdowns(records: list[Record], group: Callable[[Record], str]) -> dict[str, float]:
    """Return the mean slowdown of each group of records."""
    slowdowns: dict[str, list[float]] = defaultdict(list)
    for record in records:
        slowdowns[group(record)].append(record.slowdown)
    return {name: mean(values) for name, values in sorted(slowdowns.items())}
