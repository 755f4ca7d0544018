"""The inter-token target with the real engine: others are let through long passes, and what these compute stays the same.

Once for each way: beside a pass on several threads, on one, where it stands still meanwhile, and between the bits it is cut into.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels.native_threads import set_native_threads
from model.bagel import PackedTokens
from model.stepwise import CPU_CUT, GPU_CUT, Cut, blocks_of
from model.weights import load_bagel
from server.engine import process
from server.engine.batch import Batch, BatchResult
from server.engine.context import PageCopy
from server.engine.link import LocalLink
from server.engine.loop import DividedPass, Engine
from server.engine.options import EngineOptions
from server.engine.process import LoadedEngine, load_engine
from server.engine.runner import Runner
from server.messages import (
    Abort,
    FinishReason,
    ImageParams,
    ImageSegment,
    OutputMode,
    Request,
    SamplingParams,
    Segment,
    StepReport,
    TextSegment,
)
from tests.engine.fakes import grey

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
IMAGE = ImageParams(64, 96, num_timesteps=7, interval=(0.0, 1.0), image_scale=1.5, seed=3)


class CountingRunner:
    """Counts the batches executed while a divided pass was under way."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._under_way: DividedPass | None = None
        self.num_divided = 0
        self.num_between = 0

    def execute(self, batch: Batch) -> BatchResult:
        self.num_between += self._under_way is not None and self._under_way.result is None
        return self._runner.execute(batch)

    def begin(self, batch: Batch) -> DividedPass:
        assert not batch.decodes
        self.num_divided += 1
        self._under_way = self._runner.begin(batch)
        return self._under_way

    def forget(self, sequence_ids: list[int]) -> None:
        self._runner.forget(sequence_ids)


def chat(name: str, num_tokens: int = 40) -> Request:
    sampling = SamplingParams(max_tokens=num_tokens, ignore_eos=True)
    return Request(name, [TextSegment([5, 6, len(name)])], OutputMode.TEXT, sampling, ImageParams(32, 32))


def drawing(name: str, seed: int = 3, num_timesteps: int = 7) -> Request:
    segments: list[Segment] = [ImageSegment(vit=grey(28, 42), vae=grey(32, 48)), TextSegment([7, 8])]
    return Request(name, segments, OutputMode.IMAGE, SamplingParams(), replace(IMAGE, seed=seed, num_timesteps=num_timesteps))


class Way(Enum):
    """How others are let through a long pass, and the threads of the machine."""

    BESIDE = 3
    STANDING_STILL = 1
    BETWEEN_BITS = 2


@pytest.fixture(autouse=True, params=list(Way))
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    way: Way = request.param
    if way is Way.BETWEEN_BITS:
        monkeypatch.setattr(process, "thread_beside", lambda device, dtype: None)
    set_native_threads(way.value)
    yield way
    set_native_threads(None)


class Bench:
    """An engine on the golden weights with a target, or without one."""

    def __init__(self, target_s: float | None) -> None:
        self.link = LocalLink()
        self.loaded: LoadedEngine = load_engine(EngineOptions(str(CHECKPOINT), num_pages=512, inter_token_target_s=target_s), self.link)
        self.runner = CountingRunner(self.loaded.runner)
        self.engine = Engine(self.loaded.scheduler, self.runner, self.loaded.pool, self.link)

    def run(self, requests: list[Request]) -> dict[str, tuple[list[int], list[bytes]]]:
        for request in requests:
            self.engine.submit(request)
        while self.loaded.scheduler.has_work:
            self.engine.step()
        return answers(list(self.link.reports), requests)


def answers(reports: list[StepReport], requests: list[Request]) -> dict[str, tuple[list[int], list[bytes]]]:
    """Return tokens and pictures by name."""
    found: dict[str, tuple[list[int], list[bytes]]] = {request.request_id: ([], []) for request in requests}
    for report in reports:
        for token in report.tokens:
            found[token.request_id][0].append(token.token_id)
        for image in report.images:
            found[image.request_id][1].append(image.picture.rgb)
    return found


def assert_alike(found: list[bytes], expected: list[bytes]) -> None:
    """Assert that 8-bit pictures differ by truncation at most."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        difference = torch.frombuffer(bytearray(one), dtype=torch.uint8).int() - torch.frombuffer(bytearray(other), dtype=torch.uint8).int()
        assert difference.abs().max() <= 1


REQUESTS = [chat("a"), chat("bb"), drawing("p"), drawing("q", seed=4)]


@pytest.fixture
def without_target() -> dict[str, tuple[list[int], list[bytes]]]:
    return Bench(None).run(REQUESTS)


@pytest.mark.parametrize("target_s", [1e-6, 5e-3, 10.0])
def test_answers_do_not_depend_on_the_target(without_target: dict[str, tuple[list[int], list[bytes]]], target_s: float) -> None:
    bench = Bench(target_s)

    found = bench.run(REQUESTS)

    for name, (tokens, pictures) in without_target.items():
        assert found[name][0] == tokens
        assert_alike(found[name][1], pictures)
        assert len(pictures) == (name in "pq")
    assert bench.loaded.pool.num_used == 0


def test_a_small_target_divides_passes_and_decodes_between_their_layers() -> None:
    bench = Bench(1e-6)

    bench.run([chat("a", 300), drawing("p", num_timesteps=50), drawing("q", seed=4, num_timesteps=50)])

    assert bench.runner.num_divided > 0
    assert bench.runner.num_between > bench.runner.num_divided


def test_a_target_longer_than_any_step_divides_nothing_once_costs_are_known() -> None:
    bench = Bench(10.0)

    bench.run([chat("a", 100), drawing("p")])

    assert bench.runner.num_divided == 0


def in_the_middle_of_a_pass() -> Bench:
    """An engine whose long pass has begun and not ended, with a chat decoding beside it."""
    bench = Bench(1e-6)
    for request in (chat("a", 5000), drawing("p", num_timesteps=1000)):
        bench.engine.submit(request)
    while bench.loaded.scheduler.has_work:
        bench.engine.step()
        if bench.runner.num_between >= 5 and any(other.is_in_flight for other in bench.loaded.scheduler.running):
            return bench
    raise AssertionError("no pass was ever left for others")


def test_an_abort_in_the_middle_of_a_pass_is_answered_at_once_and_its_pages_come_back_after_it() -> None:
    bench = in_the_middle_of_a_pass()
    bench.engine.submit(Abort("p"))

    report = bench.engine.step()

    assert report is not None
    assert [(end.request_id, end.reason) for end in report.finished] == [("p", FinishReason.ABORT)]
    bench.engine.submit(Abort("a"))
    while bench.loaded.scheduler.has_work:
        bench.engine.step()
    assert bench.loaded.pool.num_used == 0


def test_pages_are_copied_when_a_pass_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is let through before it has come to its first bit may be given the page that it copies from, and write."""
    memory: list[torch.Tensor] = []
    page_memory = process._page_memory

    def noted(*args: Any) -> torch.Tensor:
        memory.append(page_memory(*args).normal_())
        return memory[-1]

    monkeypatch.setattr(process, "_page_memory", noted)
    bench = Bench(1e-6)
    before = memory[0][:, :, 0].clone()

    bench.loaded.runner.begin(Batch(copies=[PageCopy(0, 1)]))

    assert torch.equal(memory[0][:, :, 1], before)


class UnbegunRunner(CountingRunner):
    """No long pass can be begun, and from the first one on nothing of the sequences that were in it can be done."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self.refused: set[int] = set()

    def begin(self, batch: Batch) -> DividedPass:
        self.refused.update(batch.sequence_ids())
        raise RuntimeError("out of memory")

    def execute(self, batch: Batch) -> BatchResult:
        if self.refused & set(batch.sequence_ids()):
            raise RuntimeError("out of memory")
        return super().execute(batch)


def test_a_pass_that_cannot_be_begun_ends_its_own_request_alone() -> None:
    bench = Bench(1e-6)
    bench.runner = runner = UnbegunRunner(bench.loaded.runner)
    bench.engine = Engine(bench.loaded.scheduler, runner, bench.loaded.pool, bench.link)

    found = bench.run([chat("a"), drawing("p", num_timesteps=1000)])

    ends = {end.request_id: end.reason for report in bench.link.reports for end in report.finished}
    assert runner.refused
    assert ends == {"a": FinishReason.LENGTH, "p": FinishReason.ERROR}
    assert len(found["a"][0]) == 40


@pytest.mark.parametrize("cut", [CPU_CUT, GPU_CUT])
@pytest.mark.parametrize("num_und", [0, 5, 150, 800])
def test_layers_cut_into_blocks_of_tokens_give_the_same_hidden_states(num_und: int, cut: Cut) -> None:
    model = load_bagel(CHECKPOINT, torch.device("cpu"), torch.float32)
    tokens = PackedTokens(torch.randn(800, model.config.llm.hidden_size), torch.arange(800), num_und)
    bits = 0
    with torch.inference_mode():
        whole = model.forward(tokens, first_heads)
        steps = model.forward_in_steps(tokens, first_heads, cut)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                in_blocks = end.value
                break
            bits += 1

    assert torch.equal(in_blocks, whole)
    num_blocks = len(blocks_of(800 - num_und, cut.num_projected)) + len(blocks_of(800 - num_und, cut.num_finished))
    assert bits >= num_blocks * model.config.num_layers


def test_a_pass_cut_as_coarsely_as_can_be_is_left_once_a_layer() -> None:
    model = load_bagel(CHECKPOINT, torch.device("cpu"), torch.float32)
    tokens = PackedTokens(torch.randn(300, model.config.llm.hidden_size), torch.arange(300), 100)
    with torch.inference_mode():
        bits = sum(1 for _ in model.forward_in_steps(tokens, first_heads, CPU_CUT.into(1)))

    assert bits == model.config.num_layers


def first_heads(layer_index: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention's shapes without its work."""
    return q


def test_a_decoder_that_is_left_and_resumed_gives_the_same_pixels() -> None:
    model = load_bagel(CHECKPOINT, torch.device("cpu"), torch.float32)
    latent = torch.randn(1, model.config.vae.z_channels, 8, 8)
    with torch.inference_mode():
        whole = model.vae.decode(latent)
        steps = model.vae.decode_in_steps(latent)
        num_steps = 0
        while True:
            try:
                next(steps)
            except StopIteration as end:
                bit_by_bit = end.value
                break
            num_steps += 1

    assert torch.equal(whole, bit_by_bit)
    assert num_steps > 3
