"""What floors are computed from, as lines of a table."""

from __future__ import annotations

from collections.abc import Iterator

from loadtests.gpu.part import Line
from loadtests.gpu.roofline import COPY, MATMUL, READ
from loadtests.machine import Rates


def rate_lines(rates: Rates) -> Iterator[Line]:
    """Yield the two ceilings, and what a read alone reaches: a decode step reads and hardly writes."""
    yield {"what": MATMUL, "value": rates.matmul_gflops / 1e3, "unit": "TFLOP/s"}
    yield {"what": COPY, "value": rates.copy_gbps / 1e3, "unit": "TB/s"}
    yield {"what": READ, "value": rates.read_gbps / 1e3, "unit": "TB/s"}
