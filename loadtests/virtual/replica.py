"""One simulated replica: the scheduler that serves, over a runner that only counts time."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np

from loadtests.replays.clock import VirtualClock
from loadtests.replays.metered import MeteredRunner
from loadtests.replays.peer_branches import PeerBranches
from loadtests.replays.picture_queue import PictureQueue
from loadtests.replays.policy import MeteredPlait, Plait, Policy
from loadtests.replays.replay import Replay, Watch, watch_nothing
from loadtests.replays.staged import Staged
from loadtests.replays.stand import Served, Way
from loadtests.replays.timeline import Replayed
from loadtests.traces.sessions import Session, Trace
from loadtests.virtual.costs import Costs
from loadtests.virtual.runner import Tally, VirtualRunner
from model.config import BagelConfig
from model.profile import Family, FamilyProfile
from model.stepwise import CPU_CUT
from model.transforms import resize_size
from server.engine.calibration import calibrate
from server.engine.cost_model import Load
from server.engine.link import LocalLink
from server.engine.loop import Engine, Executor
from server.engine.options import ModelFacts, SchedulerLimits
from server.engine.pages import PagePool
from server.engine.scheduler import Scheduler
from server.messages import ImageSegment, Picture, Request, StepReport

FIRST_MARKER_ID = 256
"""The ids of the markers of an imaginary vocabulary: after the 256 bytes."""


@dataclass(frozen=True, slots=True)
class Reception:
    """A policy that takes ``arrival_s`` to take in a request."""

    policy: Policy
    clock: VirtualClock
    arrival_s: float

    @property
    def has_work(self) -> bool:
        return self.policy.has_work

    def submit(self, request: Request) -> None:
        self.clock.advance(self.arrival_s)
        self.policy.submit(request)

    def note_idle(self, seconds: float) -> None:
        self.policy.note_idle(seconds)

    def step(self) -> list[StepReport]:
        return self.policy.step()

    def stand_still(self) -> None:
        self.policy.stand_still()

    def go_on(self) -> None:
        self.policy.go_on()


@dataclass(frozen=True, slots=True)
class Replica:
    """What a simulated replica is: a model's sizes, its costs on a machine, its pages and the scheduler's limits; and its luck."""

    config: BagelConfig
    costs: Costs
    num_pages: int
    page_size: int
    limits: SchedulerLimits
    staged_pictures: int = 1
    luck_seed: int = 0

    def serve(self, way: Way, trace: Trace, watch: Watch) -> Served:
        """Replay ``trace`` on fresh simulated engines."""
        return self._serve(way, [trace], watch, Tally())

    def serve_all(self, trace: Trace, watch: Watch) -> dict[Way, Served]:
        """Replay ``trace`` in every way, each on fresh simulated engines."""
        return {way: self.serve(way, trace, watch) for way in Way}

    def serve_after(self, before: Trace, trace: Trace) -> Served:
        """Replay ``trace`` in Plait's way on an engine that has served ``before``, and has learnt from it."""
        return self._serve(Way.PLAIT, [before, trace], watch_nothing, Tally())

    def work(self, way: Way, trace: Trace) -> Load:
        """Return the loads of all steps that serving ``trace`` takes, added up."""
        tally = Tally()
        self._serve(way, [trace], watch_nothing, tally)
        return tally.load

    def _serve(self, way: Way, traces: list[Trace], watch: Watch, tally: Tally) -> Served:
        """Replay traces one after the other; return the last."""
        clock = VirtualClock()
        runner = self._runner(clock, tally)
        metered = self._plait(clock, runner) if way is Way.PLAIT else None
        policy: Policy = metered.policy if metered else self._staged(clock, tally)
        for trace in traces:
            runner.began_s = clock.now() if trace is traces[-1] else math.inf
            num_before = len(metered.runner.samples) if metered else 0
            replayed = Replay(trace, Reception(policy, clock, self.costs.arrival_s), self.config, clock, self._refeed, paint_number).run(
                watch
            )
        return Served(replayed, metered.runner.samples[num_before:] if metered else [], self.costs.share_of_steps)

    def alone(self, trace: Trace) -> dict[str, float]:
        """Return how long each request of ``trace`` takes when its session has a replica to itself."""
        return {record.request_id: record.latency_s for session in trace.sessions for record in self._replay_one(session).records}

    def _replay_one(self, session: Session) -> Replayed:
        return self.serve(Way.PLAIT, Trace(0, 0.0, (replace(session, arrival_s=0.0),)), watch_nothing).replayed

    def _plait(self, clock: VirtualClock, virtual: VirtualRunner) -> MeteredPlait:
        link, pool = LocalLink(), PagePool(self.num_pages, self.page_size)
        scheduler = self._scheduler(self.limits, pool, clock)
        runner = MeteredRunner(virtual, scheduler.costs, clock.now, clock.now)
        return MeteredPlait(Plait(Engine(scheduler, runner, pool, link), scheduler, link), runner)

    def _staged(self, clock: VirtualClock, tally: Tally) -> Staged:
        limits = replace(self.limits, inter_token_target_s=None, has_prefix_cache=False)
        runners = (self._runner(clock, tally), PeerBranches(self._runner(clock, tally)))
        text, pictures = (self._peer(limits, clock, runner) for runner in runners)
        return Staged(text, pictures, PictureQueue(self.staged_pictures), self._refeed, clock)

    def _peer(self, limits: SchedulerLimits, clock: VirtualClock, runner: Executor) -> Plait:
        link, pool = LocalLink(), PagePool(self.num_pages, self.page_size)
        scheduler = self._scheduler(limits, pool, clock)
        return Plait(Engine(scheduler, runner, pool, link), scheduler, link)

    def _scheduler(self, limits: SchedulerLimits, pool: PagePool, clock: VirtualClock) -> Scheduler:
        """Make a scheduler and calibrate it as a server does before its first client."""
        facts = replace(facts_of(self.config), share_of_steps=self.costs.share_of_steps)
        scheduler = Scheduler(pool, facts, limits, self._refeed, clock=clock.now)
        calibrate(scheduler, self._runner(clock, Tally()), pool, self.config, clock.now)
        return scheduler

    def _runner(self, clock: VirtualClock, tally: Tally) -> VirtualRunner:
        return VirtualRunner(clock, self.costs, self.config.num_layers, random.Random(self.luck_seed), tally)

    def _refeed(self, picture: Picture) -> ImageSegment:
        """Make a drawn picture an input picture of the sizes that the real resizes would give."""
        vae = resize_size(picture.width, picture.height, self.config.vae_transform)
        vit = resize_size(*vae, self.config.vit_transform)
        return ImageSegment(vit=Picture(vit[1], vit[0], picture.rgb), vae=Picture(vae[1], vae[0], picture.rgb))


def facts_of(config: BagelConfig) -> ModelFacts:
    """Return the scheduler's facts of a model of sizes ``config`` with an imaginary vocabulary."""
    bos, eos, boi, eoi = range(FIRST_MARKER_ID, FIRST_MARKER_ID + 4)
    return ModelFacts(
        bos,
        eos,
        boi,
        eoi,
        (eos,),
        latent_stride=config.latent_stride,
        vit_stride=config.vit.patch_size,
        max_positions=config.llm.max_positions,
        profile=FamilyProfile.of_family(Family.BAGEL, config),
        num_layers=config.num_layers,
        most_bits=CPU_CUT.num_bits,
    )


def paint_number(side: int, rng: np.random.Generator) -> Picture:
    """Return a picture that has a random number for its pixels: enough to tell it from others."""
    return Picture(side, side, rng.bytes(16))
