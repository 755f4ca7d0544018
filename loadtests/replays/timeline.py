"""What happened to each request of a replay and when; all times in seconds since the replay began."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

from loadtests.traces.sessions import Kind
from server.messages import FinishReason, StepStats, Usage


@dataclass(slots=True)
class Record:
    """One request.

    Attributes:
        arrival_s: when it was due, whether or not the server looked then.
        texts: times of the tokens, a list for each text of the answer.
        picture_times: when each picture was out; picture_tokens: latent tokens of all of them.
        alone_s: how long it takes on an idle machine.
    """

    request_id: str
    kind: Kind
    tenant: str
    arrival_s: float
    texts: list[list[float]] = field(default_factory=lambda: [[]])
    picture_times: list[float] = field(default_factory=list)
    picture_tokens: int = 0
    finish_s: float = 0.0
    alone_s: float = math.nan
    reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def lane(self) -> str:
        """What the scheduler has to share out: words, or steps of pictures."""
        return "text" if self.kind in (Kind.CHAT, Kind.PICTURE_CHAT) else "picture"

    @property
    def has_failed(self) -> bool:
        return self.reason not in (FinishReason.STOP, FinishReason.LENGTH)

    @property
    def num_tokens(self) -> int:
        return sum(len(text) for text in self.texts)

    @property
    def latency_s(self) -> float:
        return self.finish_s - self.arrival_s

    @property
    def slowdown(self) -> float:
        """How many times longer it took than alone."""
        return self.latency_s / self.alone_s

    @property
    def first_token_s(self) -> float | None:
        """Seconds from arrival to the first word; None without words."""
        return next((text[0] - self.arrival_s for text in self.texts if text), None)

    @property
    def first_picture_s(self) -> float | None:
        """Seconds from arrival to the first whole picture; None without pictures."""
        return self.picture_times[0] - self.arrival_s if self.picture_times else None

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between neighbouring words of one text."""
        return [later - earlier for text in self.texts for earlier, later in pairwise(text)]


@dataclass(frozen=True, slots=True)
class Replayed:
    """Every request of a replay, in order of arrival, and every step's statistics.

    Attributes:
        idle_s: for how long of its span there was nothing to do.
        arrivals_s: how long requests took to be made and taken in, all together.
        began_s: when it began, on the clock of replays.
    """

    records: list[Record]
    steps: list[StepStats]
    idle_s: float = 0.0
    arrivals_s: float = 0.0
    began_s: float = 0.0

    @property
    def span_s(self) -> float:
        """From the first arrival to the end of the last answer."""
        return max(record.finish_s for record in self.records) - min(record.arrival_s for record in self.records)
