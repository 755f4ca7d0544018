"""Which replica a request goes to: the less loaded of two, or the one that is likely to hold its prefix."""

from __future__ import annotations

import bisect
import hashlib
import random
from typing import Protocol

POINTS_PER_REPLICA = 40
"""Places of each replica on the ring: enough that their shares of it differ by about a sixth."""


class Routing(Protocol):
    """Chooses a replica for a session, given the seconds of work each replica has before it and their mean."""

    def choose(self, session_key: int, backlogs_s: list[float], mean_backlog_s: float) -> int: ...


class LeastLoaded:
    """The less loaded of two replicas drawn at random (Mitzenmacher 2001): nearly as good as looking at all of them."""

    def __init__(self, num_replicas: int, seed: int) -> None:
        self._num_replicas = num_replicas
        self._random = random.Random(seed)

    def choose(self, session_key: int, backlogs_s: list[float], mean_backlog_s: float) -> int:
        one, other = self._random.randrange(self._num_replicas), self._random.randrange(self._num_replicas)
        return one if backlogs_s[one] <= backlogs_s[other] else other


class PrefixAffine:
    """Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018): a session's place on a ring, or the next with room."""

    def __init__(self, num_replicas: int, slack: float, least_s: float) -> None:
        """Lay out the ring.

        Args:
            num_replicas: how many there are.
            slack: by what factor a replica's backlog may exceed the mean.
            least_s: a backlog that no session is turned away from, however small the mean.
        """
        points = ((_place(f"{replica}.{point}"), replica) for replica in range(num_replicas) for point in range(POINTS_PER_REPLICA))
        ring = sorted(points)
        self._places = [place for place, _ in ring]
        self._replicas = [replica for _, replica in ring]
        self._num_replicas = num_replicas
        self._slack = slack
        self._least_s = least_s

    def choose(self, session_key: int, backlogs_s: list[float], mean_backlog_s: float) -> int:
        bound_s = max(self._least_s, self._slack * mean_backlog_s)
        start = bisect.bisect(self._places, _place(str(session_key)))
        for offset in range(len(self._replicas)):
            replica = self._replicas[(start + offset) % len(self._replicas)]
            if backlogs_s[replica] <= bound_s:
                return replica
        raise AssertionError("not every replica can be above the mean")


def _place(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
