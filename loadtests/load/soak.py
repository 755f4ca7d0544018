"""Hours of mixed traffic, of which nothing may stay behind: at the end no request is in flight and no page in use.

locust -f loadtests/load/soak.py --host http://127.0.0.1:8000 --headless -u 4 -t 8h
"""

from __future__ import annotations

import logging
import time

import requests
from locust import events
from locust.env import Environment

from loadtests.load.leftovers import left_behind
from loadtests.load.users import MixedUser

__all__ = ["MixedUser"]

SETTLE_S = 60

logger = logging.getLogger(__name__)


def nothing_stays(environment: Environment, **_: object) -> None:
    """Wait until what was broken off has gone; fail the run if it does not go."""
    deadline = time.monotonic() + SETTLE_S
    while left := left_behind(requests.get(f"{environment.host}/metrics", timeout=10).text):
        if time.monotonic() > deadline:
            logger.error("left behind after %d s: %s", SETTLE_S, left)
            environment.process_exit_code = 1
            return
        time.sleep(1)
    logger.info("nothing left behind")


events.test_stop.add_listener(nothing_stays)
