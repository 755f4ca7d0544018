"""What do pictures and chats cost each other in one engine? The gaps between a chat's tokens, and the pictures' rate beside that alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median

from loadtests.gpu.part import Line
from loadtests.gpu.random_engine import drain, next_report
from loadtests.gpu.traffic import Traffic
from server.engine.process import LoadedEngine
from server.messages import StepReport

NUM_STEPS_ALONE = 40
NUM_STEPS_MIXED = 300
"""Each of which brings every chat a token: of fewer gaps the slowest hundredth would be a step or two."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What steps brought. ``gaps_ms``: between two tokens of a chat, of all chats together."""

    num_steps: int
    elapsed_s: float
    num_denoise_rows: int
    gaps_ms: list[float]

    @property
    def denoise_rows_per_s(self) -> float:
        return self.num_denoise_rows / self.elapsed_s

    def gap_ms(self, share: float) -> float:
        """Return the gap that this share of them does not exceed."""
        return sorted(self.gaps_ms)[int(share * (len(self.gaps_ms) - 1))]


def mixed_lines(loaded: LoadedEngine, traffic: Traffic, goal: str) -> Iterator[Line]:
    """Yield a line for the pictures alone, and one for them beside the chats; ``goal`` names what the engine's steps aim at."""
    pictures = replace(traffic, num_chats=0)
    alone = watch(loaded, pictures, NUM_STEPS_ALONE)
    yield {"what": f"{pictures.name} alone, {goal}", "steps": alone.num_steps, "denoise rows/s": alone.denoise_rows_per_s}
    mixed = watch(loaded, traffic, NUM_STEPS_MIXED)
    line: Line = {"what": f"{traffic.name}, {goal}", "unit": "ms/token", "value": median(mixed.gaps_ms)}
    line |= {"p99": mixed.gap_ms(0.99), "max": max(mixed.gaps_ms), "steps": mixed.num_steps, "gaps": len(mixed.gaps_ms)}
    line |= {"tokens/s": len(mixed.gaps_ms) / mixed.elapsed_s, "denoise rows/s": mixed.denoise_rows_per_s}
    yield line | {"of alone": mixed.denoise_rows_per_s / alone.denoise_rows_per_s}


def watch(loaded: LoadedEngine, traffic: Traffic, num_steps: int) -> Watched:
    """Watch traffic until so many steps have brought tokens, or where nobody chats have denoised; then end it."""
    try:
        traffic.begin(loaded)
        return _watched(loaded, num_steps, has_tokens if traffic.num_chats else has_denoised)
    finally:
        drain(loaded)


def _watched(loaded: LoadedEngine, num_steps: int, counts: Callable[[StepReport], bool]) -> Watched:
    num_left, num_denoise_rows = num_steps, 0
    gaps_ms: list[float] = []
    last_s: dict[str, float] = {}
    started = time.perf_counter()
    while num_left:
        report, now_s = next_report(loaded), time.perf_counter()
        num_left -= counts(report)
        num_denoise_rows += report.stats.num_denoise_rows
        gaps_ms += [1e3 * (now_s - last_s[token.request_id]) for token in report.tokens if token.request_id in last_s]
        last_s |= {token.request_id: now_s for token in report.tokens}
    return Watched(num_steps, time.perf_counter() - started, num_denoise_rows, gaps_ms)


def has_tokens(report: StepReport) -> bool:
    return bool(report.tokens)


def has_denoised(report: StepReport) -> bool:
    return report.stats.num_denoise_rows > 0
