"""Where traces are served: on real engines (`loadtests.comparison.engines`) or on simulated ones (`loadtests.virtual.replica`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from loadtests.replays.metered import Sample
from loadtests.replays.replay import Watch
from loadtests.replays.timeline import Replayed
from loadtests.traces.sessions import Trace


class Way(Enum):
    """How requests are served: Plait's way, or the peers' (`staged`)."""

    PLAIT = "plait"
    STAGED = "staged"


@dataclass(frozen=True, slots=True)
class Served:
    """What a replay was, and a sample of each step of Plait's engine; none of the peers'.

    ``share_of_steps`` is the share of the processors that its steps had beside a long pass, 0 where they were let through between its bits.
    """

    replayed: Replayed
    samples: list[Sample]
    share_of_steps: float = 0.0


class Stand(Protocol):
    """Serves a trace in every way."""

    def serve_all(self, trace: Trace, watch: Watch) -> dict[Way, Served]: ...
