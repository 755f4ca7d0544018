"""What the server measured of its own answers: sums and counts of two of its histograms, which are exact where quantiles are not."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

FIRST_TOKEN = "plait_time_to_first_token_seconds"
INTER_TOKEN = "plait_inter_token_seconds"


@dataclass(frozen=True, slots=True)
class Means:
    """Mean times in milliseconds, as one observer saw them."""

    first_token_ms: float
    inter_token_ms: float


@dataclass(frozen=True, slots=True)
class Totals:
    """Sum in seconds and count of both histograms."""

    first_token_s: float
    num_first_tokens: float
    inter_token_s: float
    num_inter_tokens: float

    @classmethod
    def read(cls, url: str) -> Totals:
        """Read a server's metrics."""
        with urllib.request.urlopen(url, timeout=10) as answer:
            return cls.parse(answer.read().decode())

    @classmethod
    def parse(cls, exposition: str) -> Totals:
        """Read an exposition."""
        values = {sample.name: sample.value for family in text_string_to_metric_families(exposition) for sample in family.samples}
        first = values[f"{FIRST_TOKEN}_sum"], values[f"{FIRST_TOKEN}_count"]
        inter = values[f"{INTER_TOKEN}_sum"], values[f"{INTER_TOKEN}_count"]
        return cls(*first, *inter)

    def means_since(self, before: Totals) -> Means:
        """Return the means of what came after ``before``."""
        first = (self.first_token_s - before.first_token_s) / (self.num_first_tokens - before.num_first_tokens)
        inter = (self.inter_token_s - before.inter_token_s) / (self.num_inter_tokens - before.num_inter_tokens)
        return Means(1000 * first, 1000 * inter)
