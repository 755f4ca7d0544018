"""How long a client that is turned away should wait: those before it in its lane, at the rate at which they have been leaving."""

from __future__ import annotations

import math

from server.messages import StepStats

UNKNOWN_S = 2
"""Said while no rate has been measured."""
LONGEST_S = 120


def retry_after_s(stats: StepStats, *, wants_pictures: bool) -> int:
    """Return whole seconds, at least 1, from the engine's latest statistics."""
    rate_per_s = stats.image_drain_per_s if wants_pictures else stats.text_drain_per_s
    num_before = stats.waiting_image if wants_pictures else stats.waiting_text
    if rate_per_s <= 0.0:
        return UNKNOWN_S
    return min(LONGEST_S, max(1, math.ceil((num_before + 1) / rate_per_s)))
