"""Replayed decode steps say what the steps themselves would, whatever rows they have; here a replay runs the captured step again."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels.plan import AttentionPlan, build_attention_plan
from model.bagel import PackedTokens
from model.weights import load_bagel
from server.engine.batch import Batch, DecodeRow, Draw, PrefillRow, TextPiece
from server.engine.decode_graphs import CAPTURE_AT, STEPS_UNTIL_TRIED_AGAIN, DecodeGraphs, Replay, StaticStep, size_of
from server.engine.graph_sizes import CONTEXT_ROWS, MAX_GRAPHS, ROWS
from server.engine.link import LocalLink
from server.engine.options import EngineOptions
from server.engine.packer import Markers, PackedBatch, pack
from server.engine.paged_attention import PagedKeysValues
from server.engine.process import load_engine
from server.messages import SamplingParams, TextSegment
from tests.engine.fakes import make_request

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
CPU = torch.device("cpu")
PAGE_SIZE, NUM_PAGES = 16, 40
MODEL = load_bagel(CHECKPOINT, CPU, torch.float32)


class Rerun:
    """Captures by remembering the step, and replays by running it into the same tensor."""

    def __init__(self) -> None:
        self.num_captured = self.num_replayed = 0

    def __call__(self, work: Replay) -> Replay:
        self.num_captured += 1
        logits = work().clone()

        def replay() -> torch.Tensor:
            self.num_replayed += 1
            return logits.copy_(work())

        return replay


def decode_batch(num_rows: int, kv_len: int = 5) -> Batch:
    """Rows over pages of their own, each a little longer than the one before."""
    rows = []
    for k in range(num_rows):
        length = kv_len + 7 * k
        first = 2 + sum((kv_len + 7 * j) // PAGE_SIZE + 1 for j in range(k))
        pages = list(range(first, first + length // PAGE_SIZE + 1))
        rows.append(DecodeRow(k, pages, length, length, 10 + k, Draw(SamplingParams(), 0, ())))
    return Batch(decodes=rows)


def packed(batch: Batch) -> PackedBatch:
    return pack(batch, PAGE_SIZE, Markers(1, 2, 16), CPU)


def keys_values() -> PagedKeysValues:
    llm = MODEL.config.llm
    shape = (llm.num_layers, 2, NUM_PAGES, PAGE_SIZE, llm.num_kv_heads, llm.head_dim)
    return PagedKeysValues(torch.randn(shape, generator=torch.Generator().manual_seed(1)))


def graphs_over(cache: PagedKeysValues, capture: Rerun) -> DecodeGraphs:
    """Return graphs of the model's decode steps, of a cache."""

    def forward(token_ids: torch.Tensor, positions: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
        hidden = MODEL(PackedTokens(MODEL.embed_text(token_ids), positions, len(token_ids)), cache.attend(plan))
        return MODEL.logits(hidden)

    return DecodeGraphs(forward, capture, PAGE_SIZE, CPU)


def logits_of(step: PackedBatch, cache: PagedKeysValues) -> torch.Tensor:
    tokens = PackedTokens(MODEL.embed_text(step.und_token_ids), step.positions, step.num_und)
    return MODEL.logits(MODEL(tokens, cache.attend(build_attention_plan(step.layout, CPU))))


@pytest.mark.parametrize("num_rows", [1, 3, 5])
def test_a_replay_gives_the_bits_of_the_step_and_padding_touches_no_page(num_rows: int) -> None:
    capture, replayed, stepped = Rerun(), keys_values(), keys_values()
    graphs = graphs_over(replayed, capture)
    with torch.inference_mode():
        for kv_len in (5, 9, 5, 31):  # the same graph over rows that grow and shrink
            step = packed(decode_batch(num_rows, kv_len))
            for _ in range(CAPTURE_AT):
                found = graphs.logits(step)
            assert found is not None
            assert torch.equal(found, logits_of(step, stepped))
            assert torch.equal(replayed.pool, stepped.pool)
    assert capture.num_captured == 1


def test_rows_that_are_padding_have_no_slot_and_see_one_key() -> None:
    """The GPU's kernel writes by slots of tokens, a CPU's by the columns of those that are kept."""
    step = packed(decode_batch(3))
    plan = build_attention_plan(step.layout, CPU)
    static = StaticStep((8, 64), PAGE_SIZE, CPU)
    for _ in range(2):
        static.fill(packed(decode_batch(8)))
        static.fill(step)
        assert static.plan.token_slots.tolist() == [*plan.token_slots.tolist(), -1, -1, -1, -1, -1]
        assert static.plan.kv_end.tolist()[3:] == [1] * 5 and static.plan.past_len.tolist()[3:] == [0] * 5
        assert set(static.plan.write_slots.tolist()) == set(step.layout.write_slots.tolist())


def test_an_engine_answers_with_replays_what_it_answers_without() -> None:
    answers, capture = [], Rerun()
    for is_captured in (False, True):
        link = LocalLink()
        loaded = load_engine(EngineOptions(str(CHECKPOINT), num_pages=64, num_threads=1), link)
        if is_captured:
            loaded.runner.capture_decodes(capture)
        for k in range(3):
            sampling = SamplingParams(max_tokens=12 + 3 * k, temperature=1.0, top_p=0.9, seed=k, logprobs=2, ignore_eos=True)
            loaded.engine.submit(make_request(f"{k}", [TextSegment(list(range(20, 30 + k)))], sampling=sampling))
        while loaded.scheduler.has_work:
            loaded.engine.step()
        answers.append([token for report in link.reports for token in report.tokens])
    assert answers[0] == answers[1] and len(answers[0]) == 12 + 15 + 18
    assert capture.num_captured == 3, "of four rows, of two, and of one"
    assert capture.num_replayed > 6


def test_what_capturing_takes_is_not_taken_for_what_a_step_costs() -> None:
    """It would be learnt as the cost of a decode step, and every plan be wrong for a while."""
    slow_s = 0.1

    def capture_slowly(work: Replay) -> Replay:
        until = time.perf_counter() + slow_s
        while time.perf_counter() < until:
            work()
        return work

    loaded = load_engine(EngineOptions(str(CHECKPOINT), num_pages=64, num_threads=1), LocalLink())
    loaded.runner.capture_decodes(capture_slowly)
    began_s = time.perf_counter()
    cost_s = sum(loaded.runner.execute(decode_batch(2)).execute_s for _ in range(CAPTURE_AT + 1))
    took_s = time.perf_counter() - began_s
    assert loaded.runner.decode_graphs is not None and loaded.runner.decode_graphs.capture_s >= slow_s
    assert cost_s <= took_s - loaded.runner.decode_graphs.capture_s


def test_a_size_is_captured_when_it_comes_again() -> None:
    capture = Rerun()
    graphs = graphs_over(keys_values(), capture)
    with torch.inference_mode():
        asked = [graphs.logits(packed(decode_batch(2))) is not None for _ in range(CAPTURE_AT + 1)]
    assert asked == [False] * (CAPTURE_AT - 1) + [True, True]
    assert (capture.num_captured, capture.num_replayed) == (1, 2)


def test_a_size_that_is_prepared_is_replayed_at_once() -> None:
    capture = Rerun()
    graphs = graphs_over(keys_values(), capture)
    step = packed(decode_batch(2))
    with torch.inference_mode():
        assert graphs.prepare(step) and graphs.prepare(step)
        assert graphs.logits(step) is not None
    assert (capture.num_captured, capture.num_replayed) == (1, 1)


def test_sizes_are_rounded_up_and_what_is_no_plain_decode_step_has_none() -> None:
    pages_each = CONTEXT_ROWS // PAGE_SIZE
    assert size_of(packed(decode_batch(1))) == (1, pages_each)
    assert size_of(packed(decode_batch(9, kv_len=200))) == (16, 16 * pages_each)
    assert size_of(packed(decode_batch(3, kv_len=CONTEXT_ROWS + 800))) == (4, 8 * pages_each), "what is longer has twice the room"
    one = decode_batch(1).decodes[0]
    assert size_of(packed(Batch(decodes=[one] * (ROWS[-1] + 1)))) is None
    prefill = PrefillRow(9, [30], 0, 0, [TextPiece((5, 6))], one.draw)
    assert size_of(packed(Batch(decodes=[one], prefills=[prefill]))) is None
    undrawn = replace(prefill, pieces=[TextPiece((5,))], draw=None)
    assert size_of(packed(Batch(decodes=[one], prefills=[undrawn]))) is None
    assert size_of(packed(Batch(decodes=[one], prefills=[replace(undrawn, draw=one.draw)]))) == (2, 2 * pages_each)


def test_a_capture_that_fails_leaves_steps_to_be_run_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    attempts = []

    def fail(work: Replay) -> Replay:
        attempts.append(work)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = DecodeGraphs(lambda *_: torch.empty(0), fail, PAGE_SIZE, CPU)
    assert [graphs.logits(packed(decode_batch(2))) for _ in range(CAPTURE_AT + 2)] == [None] * (CAPTURE_AT + 2)
    assert len(attempts) == 1 and "cannot be captured" in caplog.text


def test_a_size_that_there_was_no_memory_for_is_tried_again_later_and_others_at_once() -> None:
    sizes_tried = []

    def capture(work: Replay) -> Replay:
        sizes_tried.append(len(work()))
        if sizes_tried == [4]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return work

    graphs = DecodeGraphs(lambda token_ids, *_: torch.empty(len(token_ids), 1), capture, PAGE_SIZE, CPU)
    large, small = packed(decode_batch(3)), packed(decode_batch(1))
    for _ in range(CAPTURE_AT + STEPS_UNTIL_TRIED_AGAIN - 1):
        assert graphs.logits(large) is None
    assert graphs.prepare(small)
    assert graphs.logits(large) is not None
    assert sizes_tried == [4, 1, 4]


def test_a_replay_that_raises_is_not_used_again() -> None:
    def capture(work: Replay) -> Replay:
        def replay() -> torch.Tensor:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        return replay

    graphs = DecodeGraphs(lambda *_: torch.empty(0), capture, PAGE_SIZE, CPU)
    step = packed(decode_batch(2))
    for _ in range(CAPTURE_AT - 1):
        graphs.logits(step)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        graphs.logits(step)
    assert graphs.sizes == []


def test_the_size_unused_for_longest_makes_room() -> None:
    graphs = DecodeGraphs(lambda *_: torch.empty(0), lambda work: lambda: torch.empty(128, 1), PAGE_SIZE, CPU)
    one = decode_batch(1).decodes[0]
    seen = []
    for rows in ROWS:
        for kv_len in (16, CONTEXT_ROWS + 800, 2 * CONTEXT_ROWS + 800):
            step = packed(Batch(decodes=[one._replace(pages=[1] * 500, kv_len=kv_len)] * rows))
            size = size_of(step)
            assert size is not None
            if size not in seen:
                seen.append(size)
                for _ in range(CAPTURE_AT):
                    graphs.logits(step)
    assert len(seen) > MAX_GRAPHS
    assert graphs.sizes == seen[-MAX_GRAPHS:]
