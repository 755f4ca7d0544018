"""The golden results come out of the engine: scheduler, pages and one packed mixed batch, not only out of the model.

Every golden case runs at once in one engine, so that decode rows, prompt chunks and denoise rows of different sizes, timesteps and
guidance share each pass. `PLAIT_GOLDEN=<directory>` chooses another golden set.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from model.weights import load_bagel
from server.engine.batch import Batch, BatchResult
from server.engine.link import LocalLink
from server.engine.loop import DividedPass, Engine
from server.engine.options import EngineOptions
from server.engine.process import assemble_engine, model_facts
from server.engine.runner import Runner
from server.messages import StepReport, TokenOutput
from tests.engine.golden_requests import GoldenSet, ImageCase, TextCase

GOLDEN = GoldenSet(Path(os.environ.get("PLAIT_GOLDEN", Path(__file__).parents[1] / "golden" / "tiny_a")))
TEXT_CASES = GOLDEN.text_cases()
IMAGE_CASES = GOLDEN.image_cases()
THREE_WAY_CASES = GOLDEN.three_way_cases()
PAGE_SIZES = [16, 7]
"""One usual, one that divides no length."""
MAX_PIXELS_OFF_BY_ONE = 0.002
"""Share of 8-bit values that may differ by 1: decoders agree to 1e-5, and truncation turns that into 1 where a value is whole."""


@dataclass(slots=True)
class RecordingRunner:
    """A runner that keeps the latents after each Euler step, by request."""

    runner: Runner
    names: list[str]
    latents: dict[str, list[torch.Tensor]]
    mixed_steps: int = 0

    def execute(self, batch: Batch) -> BatchResult:
        result = self.runner.execute(batch)
        for step in batch.denoises:
            self.latents.setdefault(self.names[step.sequence_id], []).append(self.runner.latents(step.sequence_id).clone())
        self.mixed_steps += bool(batch.decodes and batch.denoises and batch.prefills)
        return result

    def begin(self, batch: Batch) -> DividedPass:
        raise AssertionError("without an inter-token target no pass is divided")

    def forget(self, sequence_ids: list[int]) -> None:
        self.runner.forget(sequence_ids)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Everything one engine run brought."""

    tokens: dict[str, list[TokenOutput]]
    latents: dict[str, list[torch.Tensor]]
    pictures: dict[str, torch.Tensor]
    mixed_steps: int
    pages_left: int


@cache
def recorded(page_size: int) -> Recorded:
    """Run every golden case at once, with a budget small enough that prompts are cut into chunks."""
    model = load_bagel(GOLDEN.path, torch.device("cpu"), torch.float32)
    model.config = GOLDEN.config
    link = LocalLink()
    facts = model_facts(model, GOLDEN.tokenizer, GOLDEN.profile)
    options = EngineOptions(str(GOLDEN.path), page_size=page_size, num_pages=20_000 // page_size, max_batch_tokens=400)
    loaded = assemble_engine(model, facts, options, link, GOLDEN.noise)
    requests = [case.request for case in TEXT_CASES] + [case.request for case in (*IMAGE_CASES, *THREE_WAY_CASES)]
    runner = RecordingRunner(loaded.runner, [request.request_id for request in requests], {})
    engine = Engine(loaded.scheduler, runner, loaded.pool, link)
    for request in requests:
        engine.submit(request)
    while loaded.scheduler.has_work:
        engine.step()
    return _collect(list(link.reports), runner, loaded.pool.num_used)


def _collect(reports: list[StepReport], runner: RecordingRunner, pages_left: int) -> Recorded:
    tokens: dict[str, list[TokenOutput]] = {}
    pictures: dict[str, torch.Tensor] = {}
    for report in reports:
        for token in report.tokens:
            tokens.setdefault(token.request_id, []).append(token)
        for image in report.images:
            picture = image.picture
            pixels = torch.frombuffer(bytearray(picture.rgb), dtype=torch.uint8)
            pictures[image.request_id] = pixels.view(picture.height, picture.width, 3)
    return Recorded(tokens, runner.latents, pictures, runner.mixed_steps, pages_left)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("case", TEXT_CASES, ids=lambda case: case.name)
def test_greedy_tokens_and_their_distributions(case: TextCase, page_size: int) -> None:
    name = case.name
    drawn = recorded(page_size).tokens[name]
    expected = GOLDEN.tensors[f"{name}.next_tokens"].tolist()
    if GOLDEN.tokenizer.eos_id in expected:
        expected = expected[: expected.index(GOLDEN.tokenizer.eos_id)]

    assert [token.token_id for token in drawn] == expected
    for place, token in enumerate(drawn):
        assert token.logprob is not None
        found = torch.empty(GOLDEN.config.llm.vocab_size)
        found[[token_id for token_id, _ in token.logprob.top]] = torch.tensor([value for _, value in token.logprob.top])
        wanted = GOLDEN.tensors[f"{name}.logits"][place].log_softmax(-1)
        # A log-probability is a logit less a log-sum-exp: each may be off by the logits' tolerance.
        torch.testing.assert_close(found, wanted, rtol=0, atol=2 * GOLDEN.atol(f"{name}.logits"))


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("case", IMAGE_CASES, ids=lambda case: case.name)
def test_latents_after_every_step_and_the_picture(case: ImageCase, page_size: int) -> None:
    name = case.name
    run = recorded(page_size)

    found = torch.stack(run.latents[name])
    torch.testing.assert_close(found, GOLDEN.tensors[f"{name}.x"][1:], rtol=0, atol=GOLDEN.atol(f"{name}.x"))
    difference = (run.pictures[name].int() - GOLDEN.tensors[f"{name}.image_u8"].int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() <= MAX_PIXELS_OFF_BY_ONE


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("case", THREE_WAY_CASES, ids=lambda case: case.name)
def test_three_way_guidance(case: ImageCase, page_size: int) -> None:
    name = case.name
    (after,) = recorded(page_size).latents[name]

    velocity = GOLDEN.tensors["edit.noise"] - after
    torch.testing.assert_close(velocity, GOLDEN.tensors[name], rtol=0, atol=GOLDEN.atol(name))


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_the_cases_shared_their_steps_and_every_page_came_back(page_size: int) -> None:
    run = recorded(page_size)

    assert run.mixed_steps > 0, "decode, prefill and denoise rows never met in one pass"
    assert run.pages_left == 0
    assert TEXT_CASES and IMAGE_CASES and THREE_WAY_CASES
