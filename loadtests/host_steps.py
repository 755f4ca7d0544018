"""How long is the host's own work on a step? Microseconds of each part of it, beside a model that computes nothing.

    OMP_NUM_THREADS=1 python -m loadtests.host_steps                              every case, as a table
    OMP_NUM_THREADS=1 python -m loadtests.host_steps --case 64 --case 64-queue    some of them
    OMP_NUM_THREADS=1 python -m loadtests.host_steps --out host.json              with all figures, to compare with another run's

On a GPU the host works on the next step while the device is at this one, so that its work costs nothing as long as it is the shorter of
the two: a decode step of BAGEL-7B is 3.3 ms at least. Here everything is as there but the device. Steps run ahead, decode steps of up to
128 rows are replayed, reports go through a socket; the forward pass is a stand-in that returns at once.

    schedule   choose the rows of the next step, reserve their pages
    launch     pack them, write a graph's memory, draw tokens (by the CPU's way, over a small vocabulary)
    collect    read the tokens that were drawn
    commit     take them in: move every sequence on, teach the cost model
    report     encode what they mean to the outside, and send it
    rest       the loop, phases and statistics
    step       all of these, and nothing else

Some of it is timed for itself, over the same rows: ``pack`` is the part of launching that lays them out, ``settings`` that says how each
token is drawn. What a GPU is told besides: ``draws``, the tables of that, and ``work``, the attention kernel's list. All of it is processor
time, so that neighbours on the machine cost least; the lower quartile over the steps. Two versions are compared by running them by turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import quantiles

import torch
import zmq
from torch import Tensor

from kernels.sampling import changes_of, settings_table
from loadtests.gpu.random_engine import ANY_TOKENIZER, edit_request, facts_of, random_model
from loadtests.kernels.__main__ import table
from loadtests.kernels.host import list_work
from loadtests.kernels.shapes import BAGEL
from model.bagel import Attend, Bagel, PackedTokens
from model.config import BagelConfig, LlmConfig, VaeConfig, VitConfig
from model.stepwise import UNCUT, Cut, Steps
from server.engine.batch import Batch, BatchResult
from server.engine.launched_step import LaunchedStep
from server.engine.link import Incoming
from server.engine.loop import Engine
from server.engine.options import EngineOptions, SchedulerLimits
from server.engine.packer import Markers, pack
from server.engine.pages import PagePool
from server.engine.pictures import input_picture
from server.engine.process import assemble_engine
from server.engine.runner import Runner
from server.engine.sampling_rows import sampling_row
from server.engine.scheduler import Scheduler
from server.messages import EngineReady, ImageParams, LoadProgress, OutputMode, Request, SamplingParams, StepReport, StepStats, TextSegment
from server.serving.engine_link import SocketLink

CONTEXT, LONG_CONTEXT = 2000, 30_000
SIDE = 512
NUM_STEPS, NUM_SETTLING_STEPS = 300, 20
NUM_TOKENS = 200
"""So many token ids make up prompts: any vocabulary has them."""
SPARE_PAGES = 2
"""For each row, which it does not come to need: steps run ahead only where there are as many."""

PARTS = ("schedule", "launch", "collect", "commit", "report", "rest", "step")
FOR_THEMSELVES = ("pack", "settings", "draws", "work")


@dataclass(frozen=True, slots=True)
class Case:
    """What is under way: rows that decode, an edit of three branches or none, and requests that wait for a place, or for pages.

    Those who wait for pages have contexts of ``LONG_CONTEXT``. ``num_written``: so many tokens of each answer are there already, which
    penalties count.
    """

    num_rows: int
    num_edits: int = 0
    num_waiting: int = 0
    waits_for_pages: bool = False
    num_written: int = 0


CASES = {
    "1": Case(1),
    "16": Case(16),
    "64": Case(64),
    "32-edit": Case(32, num_edits=1),
    "256": Case(256),
    "64-queue": Case(64, num_waiting=1000),
    "64-pages": Case(64, num_waiting=1000, waits_for_pages=True),
    "64-penalty": Case(64, num_written=1000),
}


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    figures: dict[str, dict[str, float]] = {}
    for name in options.case or CASES:
        figures[name] = measure(CASES[name], options.steps)
        print(f"{name}: {figures[name]['step']:.0f} us", file=sys.stderr)
    rows = [[name, *(f"{found[part]:.0f}" for part in (*PARTS, *FOR_THEMSELVES))] for name, found in figures.items()]
    print("\n".join(table(["us", *PARTS, *FOR_THEMSELVES], rows)))
    if options.out is not None:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.host_steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", choices=list(CASES), help="rows that decode, and what there is besides (default: all)")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="steps that are timed (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    return parser


def measure(case: Case, num_steps: int = NUM_STEPS) -> dict[str, float]:
    """Return the microseconds of each part of a steady step."""
    watch = Stopwatch()
    with house(case, num_steps, watch) as stand:
        begin(case, stand)
        for _ in range(NUM_SETTLING_STEPS):
            stand.step()
        watch.begin()
        gc.collect()
        gc.freeze()
        for _ in range(num_steps):
            started = time.thread_time()
            stats = stand.step()
            watch.end_step(time.thread_time() - started)
            assert (stats.num_decode_rows, stats.num_denoise_rows, stats.waiting) == (case.num_rows, 3 * case.num_edits, case.num_waiting)
            stand.read()
        gc.unfreeze()
    return watch.usual()


class Stopwatch:
    """Microseconds of processor time of the parts of a step, which are done one after the other, some of them twice."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget all that was."""
        self._step = dict.fromkeys((*PARTS, *FOR_THEMSELVES), 0.0)
        self._steps: list[dict[str, float]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what is done within."""
        started = time.thread_time()
        yield
        self._step[name] += 1e6 * (time.thread_time() - started)

    def end_step(self, seconds: float) -> None:
        """Take in that the step is over, which took ``seconds`` with all that is timed for itself."""
        step, self._step = self._step, dict.fromkeys(self._step, 0.0)
        step["step"] = 1e6 * seconds - sum(step[part] for part in FOR_THEMSELVES)
        step["rest"] = step["step"] - sum(step[part] for part in PARTS if part not in ("rest", "step"))
        self._steps.append(step)

    def usual(self) -> dict[str, float]:
        """Return the lower quartile of each part over all steps."""
        return {name: quantiles([step[name] for step in self._steps], n=4)[0] for name in self._step}


class IdleModel(Bagel):
    """Says that every token is as likely as any other, and that latents shall stay as they are. Pictures are read as usual."""

    def forward_in_steps(self, tokens: PackedTokens, attend: Attend, cut: Cut = UNCUT) -> Steps[Tensor]:
        yield
        return tokens.hidden

    def embed_latents(self, x_t: Tensor, timestep: Tensor, position_ids: Tensor) -> Tensor:
        return self.velocity_weight.new_zeros(len(x_t), self.config.llm.hidden_size)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden.new_zeros(len(hidden), self.config.llm.vocab_size)

    def velocity(self, hidden: Tensor) -> Tensor:
        return hidden.new_zeros(len(hidden), self.config.latent_dim)


class WatchedScheduler(Scheduler):
    """A scheduler whose decisions are timed."""

    watch: Stopwatch

    def schedule_ahead(self, under_way: Batch) -> Batch:
        with self.watch.part("schedule"):
            return super().schedule_ahead(under_way)

    def commit(self, batch: Batch, result: BatchResult) -> None:
        with self.watch.part("commit"):
            super().commit(batch, result)


@dataclass(frozen=True, slots=True)
class WatchedLauncher:
    """A runner whose steps are timed."""

    runner: Runner
    markers: Markers
    page_size: int
    watch: Stopwatch
    decodes_beside: bool = True

    def launch(self, batch: Batch) -> LaunchedStep:
        with self.watch.part("launch"):
            launched = self.runner.launch(batch)
        self._lay_out(batch)

        def collect() -> BatchResult:
            with self.watch.part("collect"):
                return launched.collect()

        return LaunchedStep(launched.draw, collect)

    def _lay_out(self, batch: Batch) -> None:
        with self.watch.part("pack"):
            packed = pack(batch, self.page_size, self.markers, torch.device("cpu"))
        with self.watch.part("settings"):
            rows = [sampling_row(draw) for _, draw in packed.draws]
        with self.watch.part("draws"):
            changes_of(rows)
            settings_table(rows)
        with self.watch.part("work"):
            list_work(packed.layout, BAGEL)


@dataclass(frozen=True, slots=True)
class WatchedLink:
    """The engine's end of a socket, whose reports are timed."""

    link: SocketLink
    watch: Stopwatch

    def receive(self, timeout_s: float) -> list[Incoming]:
        with self.watch.part("report"):
            return list(self.link.receive(timeout_s))

    def send_load_progress(self, progress: LoadProgress) -> None:
        self.link.send_load_progress(progress)

    def send_ready(self, ready: EngineReady) -> None:
        self.link.send_ready(ready)

    def send(self, report: StepReport) -> None:
        with self.watch.part("report"):
            self.link.send(report)


class Stand:
    """An engine stepped by hand, and the socket at the other end of its link."""

    def __init__(self, engine: Engine, scheduler: Scheduler, config: BagelConfig, front: zmq.Socket[bytes]) -> None:
        self.engine = engine
        self.scheduler = scheduler
        self.config = config
        self._front = front

    def step(self) -> StepStats:
        while (report := self.engine.step()) is None:
            assert self.scheduler.has_work, "the engine has nothing to do"
        return report.stats

    def read(self) -> None:
        """Throw away what has been sent."""
        while self._front.poll(0):
            self._front.recv_multipart()


def idle_config() -> BagelConfig:
    """A few thousand weights, over pictures as large as the released model's."""
    return BagelConfig.build(
        llm=LlmConfig(hidden_size=16, intermediate_size=16, num_layers=1, num_heads=1, num_kv_heads=1, vocab_size=320),
        vit=VitConfig(hidden_size=16, intermediate_size=16, num_layers=1, num_heads=1, patch_size=14, table_side=36),
        vae=VaeConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1),
        latent_patch_size=2,
        latent_table_side=SIDE // 16,
    )


@contextmanager
def house(case: Case, num_steps: int, watch: Stopwatch) -> Iterator[Stand]:
    """Build an engine with as many pages as the case is to have, and end it afterwards."""
    config = idle_config()
    model = random_model(config, torch.device("cpu"), torch.float32, IdleModel)
    options = EngineOptions(str(ANY_TOKENIZER), device="cpu", num_pages=num_pages(case, num_steps))
    with tempfile.TemporaryDirectory() as directory, zmq.Context() as context, context.socket(zmq.PAIR) as front:
        path = Path(directory) / "engine"
        front.set_hwm(0)
        front.bind(f"ipc://{path}")
        with SocketLink(path) as socket:
            link = WatchedLink(socket, watch)
            facts = replace(facts_of(model), runs_ahead=True)
            loaded = assemble_engine(model, facts, options, link)
            logits = torch.zeros(max(1, case.num_rows), config.llm.vocab_size)
            loaded.runner.capture_decodes(lambda work: logits.zero_)
            scheduler = WatchedScheduler(loaded.pool, facts, limits_of(case, options), lambda picture: input_picture(picture, config))
            scheduler.watch = watch
            markers = Markers(facts.boi_id, facts.eoi_id, facts.latent_stride)
            launcher = WatchedLauncher(loaded.runner, markers, options.page_size, watch)
            yield Stand(Engine(scheduler, loaded.runner, loaded.pool, link, launcher), scheduler, config, front)
            front.setsockopt(zmq.LINGER, 0)


def limits_of(case: Case, options: EngineOptions) -> SchedulerLimits:
    """Return what a server has set, but for room for as many as there are."""
    max_running = case.num_rows + case.num_edits + (case.num_waiting if case.waits_for_pages else 0)
    return SchedulerLimits(options.max_batch_tokens, max_running, options.max_waiting, inter_token_target_s=0.040, min_target_decodes=6.0)


def num_pages(case: Case, num_steps: int) -> int:
    """Return pages for all that is under way; where others wait for some, hardly more."""
    pages = PagePool(1, EngineOptions("").page_size)
    rows = case.num_rows * pages.pages_for(
        CONTEXT + case.num_written + pages.page_size + NUM_SETTLING_STEPS + num_steps + 16 + case.num_rows
    )
    return rows + SPARE_PAGES * case.num_rows + case.num_edits * 8 * pages.pages_for(SIDE * SIDE // 256)


def begin(case: Case, stand: Stand) -> None:
    """Ask for all of it, and step until it is under way and the others wait."""
    for number in range(case.num_rows):
        stand.engine.submit(chat(f"0f53ac8e9b7d4c2f.1.{number}", number, CONTEXT, case.num_written))
    for number in range(case.num_edits):
        stand.engine.submit(edit_request(f"edit {number}", SIDE, 10_000, stand.config))
    while (stats := stand.step()).num_decode_rows != case.num_rows or stats.num_denoise_rows != 3 * case.num_edits:
        stand.read()
    for number in range(case.num_waiting):
        context = LONG_CONTEXT if case.waits_for_pages else CONTEXT
        stand.engine.submit(chat(f"0f53ac8e9b7d4c2f.2.{number}", number, context, 0))


def chat(name: str, number: int, num_context: int, num_written: int) -> Request:
    """Ask for an answer over a context of its own; page ends come at different steps."""
    penalty = 0.1 if num_written else 0.0
    sampling = SamplingParams(max_tokens=100_000, ignore_eos=True, seed=number, frequency_penalty=penalty)
    prompt = [(token + number) % NUM_TOKENS for token in range(num_context + number % 16)]
    canon = [(7 * token + number) % NUM_TOKENS for token in range(num_written)]
    return Request(name, [TextSegment(prompt)], OutputMode.TEXT, sampling, ImageParams(16, 16), tenant=f"{number % 3}", canon=[*canon])


if __name__ == "__main__":
    sys.exit(main())
