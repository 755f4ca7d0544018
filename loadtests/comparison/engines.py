"""Builds the policies over one loaded model: the same weights and the same runner code for all, a page pool for each engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from loadtests.named_models import model_directory
from loadtests.replays.clock import WorkingClock
from loadtests.replays.metered import MeteredRunner
from loadtests.replays.peer_branches import PeerBranches
from loadtests.replays.picture_queue import PictureQueue
from loadtests.replays.policy import MeteredPlait, Plait, Policy
from loadtests.replays.replay import Replay, Watch
from loadtests.replays.side_by_side import run_side_by_side
from loadtests.replays.staged import Staged
from loadtests.replays.stand import Served, Way
from loadtests.traces.sessions import Trace
from loadtests.virtual.costs import Costs
from loadtests.virtual.replica import Replica
from model.bagel import Bagel
from model.config import BagelConfig
from model.profile import FamilyProfile
from model.tokenizer import Tokenizer
from server.engine.calibration import calibrate
from server.engine.link import LocalLink
from server.engine.loop import Engine, Executor
from server.engine.options import EngineOptions, ModelFacts
from server.engine.pictures import input_picture
from server.engine.process import LoadedEngine, assemble_engine, load_engine, model_facts, warm_up
from server.front import DEFAULT_TARGET_DECODES, DEFAULT_TARGET_MS, LEAST_TARGET_DECODES
from server.messages import EngineReady, ImageSegment, Picture


class Bench:
    """A loaded model and the engines over it: one set for all traces, warm and learnt as a server's are, and others on request."""

    def __init__(self, model: Bagel, facts: ModelFacts, options: EngineOptions, staged_pictures: int) -> None:
        """Build the engines.

        Args:
            model: the model all engines share.
            facts: what their schedulers know of it.
            options: how Plait's engine is made; the peers' are made `as_peers`.
            staged_pictures: how many equal pictures the peers' image engine draws at once.
        """
        self.model = model
        self.options = options
        self._facts = facts
        self._staged_pictures = staged_pictures
        self._clocks = {way: WorkingClock() for way in Way}
        self.ready: EngineReady
        """What an engine says of its limits; all of them have the same."""
        self._plait = self.plait(options)
        self.staged = self._build_staged()

    @property
    def config(self) -> BagelConfig:
        return self.model.config

    def serve(self, way: Way, trace: Trace, watch: Watch) -> Served:
        """Replay ``trace`` in real time but for the idle."""
        samples = self._plait.runner.samples
        num_before = len(samples)
        replayed = self._replay(way, trace).run(watch)
        return Served(replayed, samples[num_before:], self._share_of_steps)

    def serve_all(self, trace: Trace, watch: Watch) -> dict[Way, Served]:
        """Replay ``trace`` in every way, by turns."""
        samples = self._plait.runner.samples
        num_before = len(samples)
        replayed = run_side_by_side({way: (self._replay(way, trace), self._clocks[way]) for way in Way}, watch)
        return {way: Served(replayed[way], samples[num_before:] if way is Way.PLAIT else [], self._share_of_steps) for way in Way}

    @property
    def _share_of_steps(self) -> float:
        return self._plait.policy.scheduler.costs.share_of_steps

    def _replay(self, way: Way, trace: Trace) -> Replay:
        policy: Policy = self._plait.policy if way is Way.PLAIT else self.staged
        return Replay(trace, policy, self.config, self._clocks[way], self.refeed)

    def plait(self, options: EngineOptions) -> MeteredPlait:
        """Build one engine for everything."""
        link = LocalLink()
        loaded = self._assemble(options, link)
        runner = MeteredRunner(loaded.runner, loaded.scheduler.costs, now=self._clocks[Way.PLAIT].now)
        engine = Engine(loaded.scheduler, runner, loaded.pool, link)
        return MeteredPlait(Plait(engine, loaded.scheduler, link, loaded.runner), runner)

    def _build_staged(self) -> Staged:
        """Build a text engine and an image engine, as the peers'; see `loadtests.replays.staged`."""
        return Staged(
            self._peer(lambda runner: runner),
            self._peer(PeerBranches),
            PictureQueue(self._staged_pictures),
            self.refeed,
            self._clocks[Way.STAGED],
        )

    def refeed(self, picture: Picture) -> ImageSegment:
        """Make a drawn picture one of a prompt."""
        return input_picture(picture, self.config)

    def _peer(self, wrap: Callable[[Executor], Executor]) -> Plait:
        link = LocalLink()
        loaded = self._assemble(as_peers(self.options), link)
        return Plait(Engine(loaded.scheduler, wrap(loaded.runner), loaded.pool, link), loaded.scheduler, link)

    def replica(self, costs: Costs) -> Replica:
        """Describe a simulated engine with this one's model and limits."""
        options = self.options
        assert options.num_pages is not None, "a simulated engine needs to know its pages"
        return Replica(self.config, costs, options.num_pages, options.page_size, options.limits, self._staged_pictures)

    def _assemble(self, options: EngineOptions, link: LocalLink) -> LoadedEngine:
        loaded = assemble_engine(self.model, self._facts, options, link)
        warm_up(loaded)
        calibrate(loaded.scheduler, loaded.runner, loaded.pool, self.config)
        self.ready = loaded.ready
        return loaded


def as_served(inter_token_ms: float | None) -> EngineOptions:
    """Return the options of an engine as `plait serve` starts it, with its own inter-token target or another."""
    options = EngineOptions("", inter_token_target_s=(inter_token_ms or DEFAULT_TARGET_MS) / 1000)
    return replace(options, min_target_decodes=DEFAULT_TARGET_DECODES if inter_token_ms is None else LEAST_TARGET_DECODES)


def as_peers(options: EngineOptions) -> EngineOptions:
    """Return the options of one of the peers' engines: no goal for the time between words, nothing kept between requests."""
    return replace(options, inter_token_target_s=None, has_prefix_cache=False)


def load_bench(model: str, scratch: Path, options: EngineOptions, staged_pictures: int = 1) -> Bench:
    """Load a model directory, or a model of a name (`loadtests.named_models`); ``options`` says how, but for the path."""
    path = model_directory(model, scratch)
    options = replace(options, model_path=str(path), cache_dir=str(scratch))
    loaded = load_engine(options, LocalLink())
    profile = FamilyProfile.from_directory(path, loaded.model.config, None)
    facts = model_facts(loaded.model, Tokenizer.from_directory(path, profile), profile)
    return Bench(loaded.model, facts, options, staged_pictures)
