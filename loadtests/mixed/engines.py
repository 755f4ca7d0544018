"""Builds the policies over one loaded model: the same weights and the same runner code for all, a page pool for each engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests.mixed.clock import Clock, WorkingClock
from loadtests.mixed.metered import MeteredRunner
from loadtests.mixed.peer_branches import PeerBranches
from loadtests.mixed.picture_queue import PictureQueue
from loadtests.mixed.policy import MeteredPlait, Plait
from loadtests.mixed.replay import Replay, Watch
from loadtests.mixed.staged import Staged
from loadtests.mixed.stand import Served, Way
from loadtests.simulate.costs import Costs
from loadtests.simulate.replica import Replica
from loadtests.traces.sessions import Trace
from model.bagel import Bagel
from model.config import BagelConfig
from model.profile import FamilyProfile
from model.random_checkpoint import write_random_checkpoint
from model.tokenizer import Tokenizer
from server.engine.link import LocalLink
from server.engine.loop import Engine, Executor
from server.engine.options import EngineOptions, ModelFacts, SchedulerLimits
from server.engine.pictures import input_picture
from server.engine.process import LoadedEngine, assemble_engine, load_engine, model_facts, warm_up

NAMED_SIZES = ("tiny", "mid", "bagel-7b")


@dataclass(frozen=True, slots=True)
class Bench:
    """A loaded model and what engines over it are made with.

    Attributes:
        staged_pictures: how many equal pictures the peers' image engine draws at once.
    """

    model: Bagel
    facts: ModelFacts
    options: EngineOptions
    staged_pictures: int = 1

    @property
    def config(self) -> BagelConfig:
        return self.model.config

    def serve(self, way: Way, trace: Trace, watch: Watch) -> Served:
        """Replay ``trace`` on fresh engines, in real time but for the idle."""
        clock = WorkingClock()
        if way is Way.STAGED:
            return Served(Replay(trace, self.staged(clock), self.config, clock).run(watch), [])
        metered = self.plait()
        return Served(Replay(trace, metered.policy, self.config, clock).run(watch), metered.runner.samples)

    def plait(self, options: EngineOptions | None = None) -> MeteredPlait:
        """Build one engine for everything, as served."""
        link = LocalLink()
        loaded = self._assemble(options or self.options, link)
        runner = MeteredRunner(loaded.runner, loaded.scheduler.cost)
        return MeteredPlait(Plait(Engine(loaded.scheduler, runner, loaded.pool, link), loaded.scheduler, link), runner)

    def staged(self, clock: Clock) -> Staged:
        """Build a text engine and an image engine, as the peers'; see `staged`."""
        options = as_peers(self.options)
        queue = PictureQueue(self.staged_pictures)
        return Staged(
            self._engine(options, lambda runner: runner),
            self._engine(options, PeerBranches),
            queue,
            lambda picture: input_picture(picture, self.config),
            clock,
        )

    def replica(self, costs: Costs) -> Replica:
        """Describe a simulated engine with this one's model and limits."""
        options = self.options
        assert options.num_pages is not None, "a simulated engine needs to know its pages"
        limits = SchedulerLimits(
            options.max_batch_tokens, options.max_running, options.max_waiting, options.inter_token_target_s, options.has_prefix_cache
        )
        return Replica(self.config, costs, options.num_pages, options.page_size, limits, self.staged_pictures)

    def _engine(self, options: EngineOptions, wrap: Callable[[Executor], Executor]) -> Plait:
        link = LocalLink()
        loaded = self._assemble(options, link)
        return Plait(Engine(loaded.scheduler, wrap(loaded.runner), loaded.pool, link), loaded.scheduler, link)

    def _assemble(self, options: EngineOptions, link: LocalLink) -> LoadedEngine:
        loaded = assemble_engine(self.model, self.facts, options, link)
        warm_up(loaded)
        return loaded


def as_peers(options: EngineOptions) -> EngineOptions:
    """Return the options of one of the peers' engines: no goal for the time between words, nothing kept between requests."""
    return replace(options, inter_token_target_s=None, has_prefix_cache=False)


def load_bench(model: str, scratch: Path, options: EngineOptions, staged_pictures: int = 1) -> Bench:
    """Load a model directory, or write and load a random one of a named size; ``options`` says how, but for the path."""
    path = Path(model)
    if model in NAMED_SIZES:
        path = scratch / model
        write_random_checkpoint(path, BagelConfig.named(model))
    options = replace(options, model_path=str(path), cache_dir=str(scratch))
    loaded = load_engine(options, LocalLink())
    profile = FamilyProfile.from_directory(path, loaded.model.config, None)
    facts = model_facts(loaded.model, Tokenizer.from_directory(path, profile), profile)
    return Bench(loaded.model, facts, options, staged_pictures)
