"""One replica in the coarse model: in each step every writing job is a word further, prompts go first in what is left, then pictures.

Without an inter-token target a step holds every word, every prompt and an Euler step of every picture; with one it holds what fits, and
pictures go on between the layers of divided passes, so that an Euler step pays its fixed cost once. Between two events every rate is
constant, so that the next event is known in advance. Jobs are due on clocks of their own: one counts the words of each writing job, one
the share of each prompt that is in, one the Euler steps of each picture.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

from loadtests.simulate.demands import Stage

RESIDUAL = 0.5
"""How much of the step under way a new prompt has to wait for, on average; with a target it is let through."""
NEVER = math.inf
TIE = 1e-9
SHORTEST_S = 1e-9


@dataclass(order=True, slots=True)
class Job:
    """A stage on its way, due when the clock of its lane shows ``end``; ``key`` breaks ties, ``cost_s`` is what it adds to a step."""

    end: float
    key: int
    cost_s: float = field(compare=False)
    stage: Stage = field(compare=False)
    owner: int = field(compare=False)


@dataclass(slots=True)
class Lane:
    """The jobs of one phase, the next due first, their clock, and what all of them together add to a step."""

    jobs: list[Job] = field(default_factory=list)
    clock: float = 0.0
    cost_s: float = 0.0

    def put(self, length: float, key: int, cost_s: float, stage: Stage, owner: int) -> None:
        """Add a job that is due when the clock has gone ``length`` further."""
        heapq.heappush(self.jobs, Job(self.clock + length, key, cost_s, stage, owner))
        self.cost_s += cost_s

    def take_due(self) -> list[Job]:
        """Take out what is due, up to rounding."""
        due: list[Job] = []
        while self.jobs and self.jobs[0].end <= self.clock + TIE * (1.0 + self.clock):
            due.append(heapq.heappop(self.jobs))
            self.cost_s = self.cost_s - due[-1].cost_s if self.jobs else 0.0
        return due

    def left_s(self, pace: float) -> float:
        """Return the seconds until the next job is due, if the clock runs at ``pace``."""
        return (self.jobs[0].end - self.clock) / pace if self.jobs and pace > 0.0 else NEVER


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a step lasts, and how far the three clocks go in a second."""

    step_s: float
    words: float
    prompt: float
    euler: float


@dataclass(slots=True)
class Station:
    """A replica's jobs.

    Attributes:
        fixed_s: what a step of words costs without rows; mixed_s: how much more one with a prompt or a picture does.
        target_s: the inter-token target, infinite without one; min_decodes: the least it counts as, in decode steps.
        now_s: when the state was last brought up to date; busy_s: how long there has been work so far.
        version: changes with every job that comes or goes.
    """

    fixed_s: float
    mixed_s: float = 0.0
    target_s: float = NEVER
    min_decodes: float = 2.0
    now_s: float = 0.0
    busy_s: float = 0.0
    version: int = 0
    prompts: Lane = field(default_factory=Lane)
    writing: Lane = field(default_factory=Lane)
    drawing: Lane = field(default_factory=Lane)

    @property
    def is_busy(self) -> bool:
        return bool(self.prompts.jobs or self.writing.jobs or self.drawing.jobs)

    def add(self, stage: Stage, owner: int, *, is_warm: bool) -> None:
        """Take in a stage; the state must be up to date."""
        prompt_s = stage.warm_s if is_warm else stage.cold_s
        if stage.is_picture:
            # The prompt and the decoder are a picture's too: so many Euler steps more.
            euler_s = stage.step_s + (self.mixed_s if self.target_s < NEVER else 0.0)
            num_steps = stage.num_steps + (prompt_s + stage.tail_s) / euler_s
            self.drawing.put(num_steps, self.version, euler_s, stage, owner)
        else:
            waiting = RESIDUAL if self.is_busy and self.target_s == NEVER else 0.0
            self.prompts.put(1.0 + waiting, self.version, prompt_s, stage, owner)
        self.version += 1

    def pace(self) -> Pace:
        """Return the rates of the present jobs."""
        decode_s = max(SHORTEST_S, self.fixed_s + self.writing.cost_s)
        if self.target_s < NEVER:
            return self._pace_to_target(decode_s)
        is_mixed = bool(self.prompts.jobs or self.drawing.jobs)
        step_s = decode_s + self.mixed_s * is_mixed + self.prompts.cost_s + self.drawing.cost_s
        return Pace(step_s, 1.0 / step_s, 1.0 / step_s, 1.0 / step_s)

    def _pace_to_target(self, decode_s: float) -> Pace:
        """Fill what the words leave of the target, prompts first, then pictures, which share it evenly."""
        step_s = decode_s + self.prompts.cost_s + self.drawing.cost_s
        if self.writing.jobs:
            step_s = min(step_s, max(self.target_s, self.min_decodes * decode_s))
            room_s = step_s - decode_s
        else:
            room_s = step_s
        prompts_s = max(SHORTEST_S, self.prompts.cost_s + self.mixed_s) if self.prompts.jobs else 0.0
        prompt_s = min(prompts_s, room_s)
        prompt = prompt_s / prompts_s / step_s if self.prompts.jobs else 0.0
        euler = (room_s - prompt_s) / self.drawing.cost_s / step_s if self.drawing.jobs else 0.0
        return Pace(step_s, 1.0 / step_s, prompt, euler)

    def next_event_s(self) -> float:
        """Return when the next job ends or begins to write, if nothing comes in between."""
        pace = self.pace()
        lanes = ((self.prompts, pace.prompt), (self.writing, pace.words), (self.drawing, pace.euler))
        return self.now_s + max(0.0, min(lane.left_s(speed) for lane, speed in lanes))

    def advance(self, now_s: float) -> None:
        """Bring the state up to ``now_s``, which is not after the next event."""
        passed_s = now_s - self.now_s
        self.now_s = now_s
        if passed_s <= 0 or not self.is_busy:
            return
        pace = self.pace()
        self.busy_s += passed_s
        self.prompts.clock += passed_s * pace.prompt
        self.writing.clock += passed_s * pace.words
        self.drawing.clock += passed_s * pace.euler

    def take_done(self) -> tuple[list[Job], list[Job]]:
        """Return the jobs that begin to write and those that have ended, at an event."""
        begun = self.prompts.take_due()
        ended = self.writing.take_due() + self.drawing.take_due()
        for job in begun:
            self.writing.put(job.stage.num_steps, job.key, job.stage.step_s, job.stage, job.owner)
        self.version += 1
        return begun, ended
