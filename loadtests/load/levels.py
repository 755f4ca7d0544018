"""What a ramp measured: one level of users after the other, their answers' times, the knee, and the capacity at a service level.

Stored as JSON, so that ramps of two servers can be put into one report.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

KNEE_GAIN = 0.10
"""A level past the knee brings less than this much more throughput for the users it adds."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Quantiles of one kind of wait in one scenario, in seconds."""

    scenario: str
    kind: str
    count: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Level:
    """Some users for some time. ``failures`` counts requests that got no whole answer."""

    users: int
    seconds: float
    answers: int
    failures: int
    waits: list[Wait]

    @property
    def answers_per_s(self) -> float:
        return self.answers / self.seconds

    def worst(self, kind: str) -> float:
        """The highest p95 of a kind of wait over the scenarios; 0 where nobody waited for it."""
        return max((wait.p95 for wait in self.waits if wait.kind == kind), default=0.0)


@dataclass(frozen=True, slots=True)
class ServiceLevel:
    """What users are promised, as 95th percentiles in seconds, and that there are answers and all come whole."""

    first_words_s: float
    between_words_s: float
    first_picture_s: float

    def holds(self, level: Level) -> bool:
        """Say whether a level kept the promise."""
        return (
            level.answers > 0
            and level.failures == 0
            and level.worst("first words") <= self.first_words_s
            and level.worst("between words") <= self.between_words_s
            and level.worst("first picture") <= self.first_picture_s
        )


@dataclass(frozen=True, slots=True)
class Ramp:
    """One server under a rising load."""

    name: str
    scenario: str
    machine: str
    promise: ServiceLevel
    levels: list[Level]

    @property
    def knee(self) -> Level:
        """The level after which more users only wait longer; the last one if throughput still rose there."""
        for level, following in zip(self.levels, self.levels[1:], strict=False):
            if following.answers_per_s < (1 + KNEE_GAIN) * level.answers_per_s:
                return level
        return self.levels[-1]

    @property
    def capacity(self) -> Level | None:
        """The level with most answers a second among those that keep the promise; None where none does."""
        kept = [level for level in self.levels if self.promise.holds(level)]
        return max(kept, key=lambda level: level.answers_per_s, default=None)

    def save(self, path: Path) -> None:
        """Write the ramp as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Ramp:
        """Read what `save` wrote."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        levels = [Level(**{**level, "waits": [Wait(**wait) for wait in level["waits"]]}) for level in stored.pop("levels")]
        return cls(levels=levels, promise=ServiceLevel(**stored.pop("promise")), **stored)
