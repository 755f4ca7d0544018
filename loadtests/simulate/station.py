"""One replica in the coarse model: words tick once a step, prompts and pictures share the rest of each step, shortest picture first.

Between two events every rate is constant, so that the next event is known in advance. A step lasts as long as its decode rows and the
work that rides along need, but not longer than the inter-token target; what does not fit goes on in the next step.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

from loadtests.simulate.demands import Stage

MIN_TARGET_DECODES = 2.0
"""A target below two decode steps counts as two, as in the engine."""
NEVER = math.inf
TIE_S = 1e-9


@dataclass(order=True, slots=True)
class Job:
    """A stage on its way. ``left_s`` is the work before its words begin or its picture is done; ``key`` breaks ties."""

    left_s: float
    key: int
    stage: Stage = field(compare=False)
    owner: int = field(compare=False)


@dataclass(slots=True)
class Station:
    """A replica's jobs.

    Attributes:
        fixed_s: what a step costs without rows; target_s: the inter-token target, infinite without one.
        now_s: when the state was last brought up to date.
        busy_s: how long there has been work so far.
    """

    fixed_s: float
    target_s: float = math.inf
    now_s: float = 0.0
    busy_s: float = 0.0
    num_ticks: float = 0.0
    words_s: float = 0.0
    num_jobs: int = 0
    version: int = 0
    writing: list[tuple[float, Job]] = field(default_factory=list)
    prompts: deque[Job] = field(default_factory=deque)
    pictures: list[Job] = field(default_factory=list)

    def add(self, stage: Stage, owner: int, *, is_warm: bool) -> None:
        """Take in a stage; the state must be up to date."""
        self.num_jobs += 1
        left_s = stage.warm_s if is_warm else stage.cold_s
        if stage.is_picture:
            left_s += stage.num_steps * (stage.step_s + self.fixed_s) + stage.tail_s
            heapq.heappush(self.pictures, Job(left_s, self.num_jobs, stage, owner))
        else:
            self.prompts.append(Job(left_s, self.num_jobs, stage, owner))
        self.version += 1

    @property
    def tick_s(self) -> float:
        """How long a step lasts now."""
        return self._pace()[0]

    def _pace(self) -> tuple[float, float]:
        """Return the seconds of a step and the work done in each second beside the words."""
        decode_s = self.fixed_s + self.words_s
        if not self.writing:
            return decode_s, 1.0
        if self.prompts:
            quantum_s, gain = self.prompts[0].left_s, 1.0
        elif self.pictures:
            stage = self.pictures[0].stage
            quantum_s, gain = stage.step_s, (stage.step_s + self.fixed_s) / stage.step_s
        else:
            return decode_s, 0.0
        step_s = min(decode_s + quantum_s, max(self.target_s, MIN_TARGET_DECODES * decode_s))
        return step_s, (step_s - decode_s) / step_s * gain

    def next_event_s(self) -> float:
        """Return when the next job ends or begins to write, if nothing comes in between."""
        step_s, rate = self._pace()
        words = (self.writing[0][0] - self.num_ticks) * step_s if self.writing else NEVER
        head = self.prompts[0] if self.prompts else self.pictures[0] if self.pictures else None
        work = head.left_s / rate if head is not None and rate > 0 else NEVER
        return self.now_s + max(0.0, min(words, work))

    def advance(self, now_s: float) -> None:
        """Bring the state up to ``now_s``, which is not after the next event."""
        passed_s = now_s - self.now_s
        self.now_s = now_s
        if passed_s <= 0 or not (self.writing or self.prompts or self.pictures):
            return
        self.busy_s += passed_s
        step_s, rate = self._pace()
        if self.writing:
            self.num_ticks += passed_s / step_s
        if self.prompts:
            self.prompts[0].left_s -= passed_s * rate
        elif self.pictures:
            # Only the smallest entry becomes smaller: the heap stays one.
            self.pictures[0].left_s -= passed_s * rate

    def take_done(self) -> tuple[list[Job], list[Job]]:
        """Return the jobs that have begun to write and those that have ended, at an event."""
        begun: list[Job] = []
        ended: list[Job] = []
        while self.prompts and self.prompts[0].left_s <= TIE_S:
            job = self.prompts.popleft()
            self.words_s += job.stage.step_s
            heapq.heappush(self.writing, (self.num_ticks + job.stage.num_steps, job))
            begun.append(job)
        while self.pictures and self.pictures[0].left_s <= TIE_S:
            ended.append(heapq.heappop(self.pictures))
        while self.writing and self.writing[0][0] <= self.num_ticks + TIE_S:
            job = heapq.heappop(self.writing)[1]
            self.words_s = max(0.0, self.words_s - job.stage.step_s) if self.writing else 0.0
            ended.append(job)
        self.version += 1
        return begun, ended
