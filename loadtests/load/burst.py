"""Quiet, then eight times the users at once, and again: does the queue hold, and does it drain?

locust -f loadtests/load/burst.py --host http://127.0.0.1:8000 --headless -t 3m
"""

from __future__ import annotations

from locust import LoadTestShape

from loadtests.load.users import MixedUser

__all__ = ["Burst", "MixedUser"]

QUIET_S, BURST_S = 40, 20
QUIET_USERS, BURST_USERS = 2, 16


class Burst(LoadTestShape):
    """Users over time, until ``-t`` is over; without it for ever."""

    use_common_options = True
    """Locust leaves the run time to a shape that takes it."""

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there should be now, and how many may come a second; None at the end."""
        elapsed_s = LoadTestShape.get_run_time(self)
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        if options.run_time and elapsed_s >= options.run_time:
            return None
        is_burst = elapsed_s % (QUIET_S + BURST_S) >= QUIET_S
        return (BURST_USERS if is_burst else QUIET_USERS, float(BURST_USERS))
