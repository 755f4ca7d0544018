"""What the replicas' own metrics say of a run: how the work was shared, and how much of the prompts was cached."""

from __future__ import annotations

import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

FINISHED = "plait_requests_finished_total"
QUERIES = "plait_prefix_cache_queries_total"
HITS = "plait_prefix_cache_hits_total"


@dataclass(frozen=True, slots=True)
class Counts:
    """One replica's totals. ``answers`` are whole ones; the others are rows of prompts."""

    answers: float
    prefix_queries: float
    prefix_hits: float

    def since(self, before: Counts) -> Counts:
        """Return what came after ``before``."""
        return Counts(self.answers - before.answers, self.prefix_queries - before.prefix_queries, self.prefix_hits - before.prefix_hits)


def read_counts(metrics_url: str) -> Counts:
    """Read one replica's totals.

    Raises:
        OSError: it does not answer.
    """
    with urllib.request.urlopen(metrics_url, timeout=10) as answer:
        return parse_counts(answer.read().decode())


def parse_counts(exposition: str) -> Counts:
    """Read the totals out of an exposition."""
    samples = [sample for family in text_string_to_metric_families(exposition) for sample in family.samples]

    def total(name: str, reasons: Sequence[str] | None = None) -> float:
        return sum(sample.value for sample in samples if sample.name == name and (reasons is None or sample.labels["reason"] in reasons))

    return Counts(total(FINISHED, ("stop", "length")), total(QUERIES), total(HITS))


def hit_rate(counts: Sequence[Counts]) -> float:
    """Return the share of prompt rows that were cached, over all replicas."""
    queries = sum(count.prefix_queries for count in counts)
    return sum(count.prefix_hits for count in counts) / queries if queries else 0.0


def imbalance(counts: Sequence[Counts]) -> float:
    """Return how many times its fair share the busiest replica answered; 1 is even."""
    answers = [count.answers for count in counts]
    return max(answers) * len(answers) / sum(answers) if sum(answers) else 1.0
