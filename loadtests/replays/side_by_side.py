"""Replays by turns on one machine: what slows it down for a while slows all of them, each in the same part of its trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from loadtests.replays.clock import WorkingClock
from loadtests.replays.replay import Replay, Watch
from loadtests.replays.timeline import Replayed
from model.stepwise import Steps

TURN_S = 1.0
"""Long enough that what the other left in the caches does not count."""
KeyT = TypeVar("KeyT")


@dataclass(slots=True)
class Runner:
    """A replay under way, and the clock that runs in its turns alone."""

    replay: Replay
    clock: WorkingClock
    steps: Steps[Replayed]
    replayed: Replayed | None = None

    def take_turn(self, seconds: float) -> None:
        """Go on for ``seconds``, or to the end."""
        self.clock.go_on()
        self.replay.go_on()
        until_s = self.clock.now() + seconds
        try:
            while self.clock.now() < until_s:
                next(self.steps)
        except StopIteration as end:
            self.replayed = end.value
        self.replay.stand_still()
        self.clock.pause()


def run_side_by_side(replays: Mapping[KeyT, tuple[Replay, WorkingClock]], watch: Watch, *, turn_s: float = TURN_S) -> dict[KeyT, Replayed]:
    """Replay all to their ends; whose turn it is has answered the smallest share of its trace, so that all end at about the same time."""
    runners = {key: Runner(replay, clock, replay.steps(watch)) for key, (replay, clock) in replays.items()}
    for runner in runners.values():
        runner.clock.pause()
    while under_way := [runner for runner in runners.values() if runner.replayed is None]:
        min(under_way, key=lambda runner: (runner.replay.share_finished, runner.clock.now())).take_turn(turn_s)
    for runner in runners.values():
        runner.clock.go_on()
    return {key: runner.replayed for key, runner in runners.items() if runner.replayed is not None}
