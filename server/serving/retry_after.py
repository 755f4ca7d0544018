"""How long a new request will wait: for those before it in its lane, at the rate at which they have been leaving."""

from __future__ import annotations

from server.messages import StepStats

UNKNOWN_S = 2.0
"""Said while no rate has been measured."""
LONGEST_S = 120.0


def expected_wait_s(stats: StepStats, num_in_flight: int, *, wants_pictures: bool) -> float | None:
    """Return the seconds until there is a place, from the engine's latest statistics; None while no rate is known.

    Of the ``num_in_flight`` requests sent to the engine, those that its statistics do not know yet are counted as waiting too, in each
    lane as many as leave it: a burst comes between two steps.
    """
    rate_per_s = stats.image_drain_per_s if wants_pictures else stats.text_drain_per_s
    if rate_per_s <= 0.0:
        return None
    num_known = stats.waiting_text + stats.waiting_image + stats.running_text + stats.running_image
    num_waiting = stats.waiting_image if wants_pictures else stats.waiting_text
    num_unknown = max(0, num_in_flight - num_known)
    return num_waiting / rate_per_s + num_unknown / (stats.text_drain_per_s + stats.image_drain_per_s)


def retry_after_s(stats: StepStats, num_in_flight: int, *, wants_pictures: bool) -> float:
    """Return the seconds, at least 1, after which one more would find a place."""
    wait_s = expected_wait_s(stats, num_in_flight, wants_pictures=wants_pictures)
    return UNKNOWN_S if wait_s is None else min(LONGEST_S, max(1.0, wait_s))
