"""One simulated replica: the scheduler that serves, over a runner that only counts time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from loadtests.mixed.clock import VirtualClock
from loadtests.mixed.policy import Plait
from loadtests.mixed.replay import Replay, Watch, watch_nothing
from loadtests.mixed.timeline import Replayed
from loadtests.simulate.costs import Costs
from loadtests.simulate.virtual_runner import VirtualRunner
from loadtests.traces.sessions import Session, Trace
from model.config import BagelConfig
from model.profile import Family, FamilyProfile
from model.transforms import resize_size
from server.engine.link import LocalLink
from server.engine.loop import Engine
from server.engine.options import ModelFacts, SchedulerLimits
from server.engine.pages import PagePool
from server.engine.scheduler import Scheduler
from server.messages import ImageSegment, Picture

FIRST_MARKER_ID = 256
"""The ids of the markers of an imaginary vocabulary: after the 256 bytes."""


@dataclass(frozen=True, slots=True)
class Replica:
    """What a simulated replica is: a model's sizes, its costs on a machine, its pages and the scheduler's limits."""

    config: BagelConfig
    costs: Costs
    num_pages: int
    page_size: int
    limits: SchedulerLimits

    def replay(self, trace: Trace, watch: Watch = watch_nothing) -> Replayed:
        """Replay ``trace`` on a fresh replica, in virtual time."""
        clock = VirtualClock()
        return Replay(trace, self._engine(clock), self.config, clock, paint_number).run(watch)

    def alone(self, trace: Trace) -> dict[str, float]:
        """Return how long each request of ``trace`` takes when its session has a replica to itself."""
        return {record.request_id: record.latency_s for session in trace.sessions for record in self._replay_one(session).records}

    def _replay_one(self, session: Session) -> Replayed:
        return self.replay(Trace(0, 0.0, (replace(session, arrival_s=0.0),)))

    def _engine(self, clock: VirtualClock) -> Plait:
        pool = PagePool(self.num_pages, self.page_size)
        scheduler = Scheduler(pool, facts_of(self.config), self.limits, self._refeed, clock=clock.now)
        link = LocalLink()
        runner = VirtualRunner(clock, self.costs, self.config.num_layers)
        return Plait(Engine(scheduler, runner, pool, link), scheduler, link)

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
    )


def paint_number(side: int, rng: np.random.Generator) -> Picture:
    """Return a picture that has a random number for its pixels: enough to tell it from others."""
    return Picture(side, side, rng.bytes(16))
