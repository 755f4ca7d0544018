"""A request's tokens and pictures do not depend on who shares its batch, on when it arrives, or on who is aborted beside it.

Not by a bit: tokens, latents and pictures are compared for equality.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from model.guidance_rules import GuidanceMode, Renorm
from model.profile import Family, FamilyProfile
from model.step_cache_rules import StepCache
from model.tokenizer import Tokenizer
from model.weights import load_bagel
from server.engine.batch import Batch, BatchResult
from server.engine.link import LocalLink
from server.engine.loop import DividedPass, Engine
from server.engine.options import EngineOptions
from server.engine.process import LoadedEngine, assemble_engine, model_facts
from server.messages import (
    Abort,
    FinishReason,
    ImageParams,
    ImageSegment,
    OutputMode,
    Picture,
    Request,
    SamplingParams,
    Segment,
    TextSegment,
)

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
NUM_REQUESTS = 36
MODEL = load_bagel(CHECKPOINT, torch.device("cpu"), torch.float32)
PROFILE = FamilyProfile.of_family(Family.INTERLEAVED, MODEL.config)
TOKENIZER = Tokenizer.from_directory(CHECKPOINT, PROFILE)


@dataclass(slots=True)
class Answer:
    """What a request brought: tokens, the latents of each finished picture, and how it ended; its canon as it grew."""

    tokens: list[int] = field(default_factory=list)
    canon: list[int | Picture] = field(default_factory=list)
    latents: list[torch.Tensor] = field(default_factory=list)
    reason: FinishReason | None = None


class RecordingRunner:
    """Keeps the last latents of every picture, by sequence."""

    def __init__(self, loaded: LoadedEngine) -> None:
        self._runner = loaded.runner
        self.latents: dict[int, list[torch.Tensor]] = {}

    def execute(self, batch: Batch) -> BatchResult:
        result = self._runner.execute(batch)
        for step in batch.denoises:
            if step.is_last:
                self.latents.setdefault(step.sequence_id, []).append(self._runner.latents(step.sequence_id).clone())
        return result

    def begin(self, batch: Batch) -> DividedPass:
        raise AssertionError("without an inter-token target no pass is divided")

    def forget(self, sequence_ids: list[int]) -> None:
        self._runner.forget(sequence_ids)


@dataclass(slots=True)
class Bench:
    """An engine whose steps are taken one by one, and what it has answered so far."""

    engine: Engine
    loaded: LoadedEngine
    runner: RecordingRunner
    order: list[str] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    num_prefix_queries: int = 0
    num_prefix_hits: int = 0

    def submit(self, request: Request) -> None:
        self.order.append(request.request_id)
        self.answers[request.request_id] = Answer()
        self.engine.submit(request)

    def step(self) -> None:
        report = self.engine.step()
        if report is None:
            return
        self.num_prefix_queries += report.stats.num_prefix_queries
        self.num_prefix_hits += report.stats.num_prefix_hits
        for draw in report.silent:
            self.answers[draw.request_id].canon.append(draw.token_id)
        for token in report.tokens:
            self.answers[token.request_id].tokens.append(token.token_id)
            self.answers[token.request_id].canon.append(token.token_id)
        for image in report.images:
            self.answers[image.request_id].canon.append(image.picture)
        for end in report.finished:
            answer = self.answers[end.request_id]
            answer.reason = end.reason
            answer.latents = self.runner.latents.get(self.order.index(end.request_id), [])


def make_bench(num_pages: int, page_size: int, max_batch_tokens: int, *, has_prefix_cache: bool = True, kv_dtype: str = "auto") -> Bench:
    options = EngineOptions(
        str(CHECKPOINT),
        page_size=page_size,
        num_pages=num_pages,
        max_batch_tokens=max_batch_tokens,
        max_running=24,
        has_prefix_cache=has_prefix_cache,
        kv_dtype=kv_dtype,
    )
    link = LocalLink()
    loaded = assemble_engine(MODEL, model_facts(MODEL, TOKENIZER, PROFILE), options, link)
    runner = RecordingRunner(loaded)
    return Bench(Engine(loaded.scheduler, runner, loaded.pool, link), loaded, runner)


def random_picture(rng: random.Random) -> ImageSegment:
    size = rng.choice([(32, 32), (48, 64), (64, 32)])
    vit_size = rng.choice([(28, 28), (42, 70)])
    return ImageSegment(
        vae=Picture(*size, rng.randbytes(size[0] * size[1] * 3)), vit=Picture(*vit_size, rng.randbytes(vit_size[0] * vit_size[1] * 3))
    )


def random_request(rng: random.Random, name: str) -> Request:
    """A chat, a text-to-image, an edit, an alternation or a free answer, with settings of its own."""
    mode = rng.choice(list(OutputMode))
    texts = [TextSegment([rng.randrange(260) for _ in range(rng.randint(1, 24))]) for _ in range(rng.randint(1, 2))]
    segments: list[Segment] = [*texts]
    if rng.random() < 0.4:
        segments.insert(rng.randrange(len(segments) + 1), random_picture(rng))
    image = ImageParams(
        height=rng.choice([32, 48, 64]),
        width=rng.choice([32, 64, 96]),
        num_timesteps=rng.randint(2, 8),
        guidance=rng.choice(list(GuidanceMode)),
        text_scale=rng.choice([1.0, 2.5, 4.0]),
        image_scale=rng.choice([1.0, 1.5, 2.0]),
        interval=rng.choice([(0.0, 1.0), (0.4, 1.0)]),
        renorm=rng.choice(list(Renorm)),
        seed=rng.randrange(2**40),
        max_images=rng.randint(1, 2),
        step_cache=rng.choice([None, StepCache(2, order=0, num_first=1), StepCache(3, order=2, num_first=2)]),
    )
    # Random weights begin a picture or end a text once in 300 tokens; the bias makes them do both within a few.
    bias = {TOKENIZER.boi_id: 3.0, TOKENIZER.eos_id: 3.0, TOKENIZER.bos_id: 4.0} if mode is OutputMode.INTERLEAVED else {}
    sampling = SamplingParams(
        temperature=rng.choice([0.0, 0.7, 1.0]),
        top_k=rng.choice([0, 20]),
        top_p=rng.choice([1.0, 0.9]),
        repetition_penalty=rng.choice([1.0, 1.2]),
        logit_bias=bias,
        seed=rng.randrange(2**40),
        max_tokens=rng.randint(2, 20),
    )
    return Request(name, segments, mode, sampling, image)


def answer_alone(request: Request, kv_dtype: str = "auto") -> Answer:
    bench = make_bench(num_pages=400, page_size=16, max_batch_tokens=4096, kv_dtype=kv_dtype)
    bench.submit(request)
    while bench.loaded.scheduler.has_work:
        bench.step()
    return bench.answers[request.request_id]


def answer_together(requests: list[Request], victims: set[str], rng: random.Random, kv_dtype: str = "auto") -> Bench:
    """Submit in random order at random steps; abort the victims at random steps; run dry."""
    num_pages, page_size, max_batch_tokens = rng.choice([120, 400]), rng.choice([5, 16]), rng.choice([64, 500])
    bench = make_bench(num_pages, page_size, max_batch_tokens, kv_dtype=kv_dtype)
    waiting = rng.sample(requests, len(requests))
    while waiting or bench.loaded.scheduler.has_work:
        while waiting and rng.random() < 0.5:
            bench.submit(waiting.pop())
        for name in victims & set(bench.order):
            if rng.random() < 0.1:
                bench.engine.submit(Abort(name))
        bench.step()
    return bench


def assert_same_answer(found: Answer, expected: Answer) -> None:
    assert found.reason is expected.reason
    assert found.canon == expected.canon
    assert found.tokens == expected.tokens
    assert len(found.latents) == len(expected.latents)
    assert all(map(torch.equal, found.latents, expected.latents))


@pytest.mark.parametrize(("seed", "kv_dtype"), [(0, "auto"), (1, "auto"), (2, "auto"), (3, "auto"), (0, "fp8")])
def test_answers_alone_and_together_are_the_same(seed: int, kv_dtype: str) -> None:
    rng = random.Random(seed)
    requests = [random_request(rng, f"r{k}") for k in range(NUM_REQUESTS)]
    victims = {request.request_id for request in rng.sample(requests, 6)}

    alone = {request.request_id: answer_alone(request, kv_dtype) for request in requests}
    bench = answer_together(requests, victims, rng, kv_dtype)

    num_pictures = 0
    for name, answer in bench.answers.items():
        if answer.reason is FinishReason.ABORT:
            assert name in victims
            continue
        assert_same_answer(answer, alone[name])
        num_pictures += len(answer.latents)
    assert num_pictures >= 10
    assert sum(len(answer.tokens) for answer in alone.values()) >= 50
    assert bench.loaded.pool.num_used == 0


def test_euler_steps_taken_together_as_on_a_gpu_are_those_taken_one_by_one() -> None:
    rng = random.Random(5)
    requests = [random_request(rng, f"r{k}") for k in range(24)]
    bench = make_bench(num_pages=2000, page_size=16, max_batch_tokens=2000)
    bench.loaded.runner.euler_steps.takes_together = True
    for request in requests:
        bench.submit(request)
    while bench.loaded.scheduler.has_work:
        bench.step()

    for request in requests:
        assert_same_answer(bench.answers[request.request_id], answer_alone(request))
    assert sum(len(answer.latents) for answer in bench.answers.values()) >= 10


def continued(request: Request, answer: Answer, name: str) -> Request:
    """The next turn: the prompt again, the answer's text, and a question; greedy, without pictures of its own."""
    segments = [*request.segments, TextSegment(answer.tokens), TextSegment([3, 4, 5])]
    return replace(request, request_id=name, segments=segments, mode=OutputMode.TEXT, sampling=SamplingParams(max_tokens=8))


@pytest.mark.parametrize("kv_dtype", ["auto", "fp8"])
def test_answers_with_and_without_the_prefix_cache_are_the_same(kv_dtype: str) -> None:
    """Every request three times, the last time as the first turn of a chat that goes on: most of it is found again."""
    rng = random.Random(13)
    requests = [random_request(rng, f"r{k}") for k in range(12)]
    cached = make_bench(num_pages=2000, page_size=5, max_batch_tokens=500, kv_dtype=kv_dtype)
    plain = make_bench(num_pages=2000, page_size=5, max_batch_tokens=500, has_prefix_cache=False, kv_dtype=kv_dtype)

    for bench in (cached, plain):
        for turn in "ab":
            for request in requests:
                bench.submit(replace(request, request_id=request.request_id + turn))
            while bench.loaded.scheduler.has_work:
                bench.step()
        for request in requests:
            bench.submit(continued(request, bench.answers[request.request_id + "a"], request.request_id + "c"))
        while bench.loaded.scheduler.has_work:
            bench.step()

    for name, answer in cached.answers.items():
        assert_same_answer(answer, plain.answers[name])
    assert cached.num_prefix_hits > 0.5 * cached.num_prefix_queries
    assert plain.num_prefix_hits == 0


@pytest.mark.parametrize(("seed", "kv_dtype"), [(0, "auto"), (1, "auto"), (0, "fp8")])
def test_answers_taken_up_by_another_engine_end_the_same(seed: int, kv_dtype: str) -> None:
    """Every answer is cut somewhere and goes on from its canon, all of them together, with pages so few that some are preempted."""
    rng = random.Random(100 + seed)
    requests = [random_request(rng, f"r{k}") for k in range(NUM_REQUESTS)]
    alone = {request.request_id: answer_alone(request, kv_dtype) for request in requests}
    cuts = {name: rng.randint(0, len(answer.canon)) for name, answer in alone.items()}

    bench = make_bench(num_pages=120, page_size=5, max_batch_tokens=500, kv_dtype=kv_dtype)
    for request in requests:
        bench.submit(replace(request, canon=alone[request.request_id].canon[: cuts[request.request_id]]))
    while bench.loaded.scheduler.has_work:
        bench.step()

    for name, answer in bench.answers.items():
        rest, kept = alone[name].canon[cuts[name] :], [item for item in alone[name].canon[: cuts[name]] if isinstance(item, Picture)]
        assert answer.reason is alone[name].reason
        assert answer.canon == rest
        assert all(map(torch.equal, answer.latents, alone[name].latents[len(kept) :]))
    assert sum(cuts.values()) > 50
    assert bench.loaded.scheduler.num_preemptions > 0


def test_a_failing_request_fails_alone() -> None:
    """A prompt with a token id the model does not have raises in the forward pass; its neighbours' answers do not change."""
    rng = random.Random(7)
    requests = [random_request(rng, f"r{k}") for k in range(6)]
    poison = replace(requests[0], request_id="poison", segments=[TextSegment([10**6])])
    expected = {request.request_id: answer_alone(request).tokens for request in requests}

    bench = answer_together([*requests, poison], set(), rng)

    assert bench.answers["poison"].reason is FinishReason.ERROR
    assert {name: answer.tokens for name, answer in bench.answers.items() if name != "poison"} == expected
    assert bench.loaded.pool.num_used == 0
