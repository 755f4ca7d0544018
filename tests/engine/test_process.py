"""An engine from options: loaded, warmed up, announced, run until told to stop."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.errors import CheckpointError
from server.engine.link import LocalLink
from server.engine.memory_plan import TooManyPages
from server.engine.options import EngineOptions
from server.engine.process import load_engine, run_engine, warm_up
from server.messages import FinishReason, ImageParams, OutputMode, Request, SamplingParams, Shutdown, TextSegment

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
OPTIONS = EngineOptions(str(CHECKPOINT), num_pages=64)


def test_warming_up_leaves_nothing_behind() -> None:
    loaded = load_engine(OPTIONS, LocalLink())

    warm_up(loaded)

    assert loaded.pool.num_used == 0
    assert not loaded.scheduler.has_work


def test_an_engine_says_how_far_it_is_and_what_it_can_do() -> None:
    link = LocalLink()
    link.push(Shutdown())

    run_engine(OPTIONS, link)

    assert link.progress[-1].bytes_done == link.progress[-1].bytes_total > 0
    assert link.ready is not None
    assert (link.ready.max_context_rows, link.ready.page_size, link.ready.dtype) == (64 * 16, 16, "float32")


@pytest.mark.parametrize(("dtype", "may_round"), [("float32", False), ("bfloat16", True)])
def test_a_float32_model_is_float32_on_a_gpu_too(dtype: str, may_round: bool) -> None:
    """Its VAE ran in TF32 there, with 10 bits of 23: PyTorch lets convolutions do so unless it is told otherwise."""
    load_engine(replace(OPTIONS, dtype=dtype), LocalLink())

    assert torch.backends.cudnn.allow_tf32 is may_round


def test_what_was_sent_before_the_shutdown_is_taken_in() -> None:
    link = LocalLink()
    loaded = load_engine(OPTIONS, link)
    request = Request("a", [TextSegment([5])], OutputMode.TEXT, SamplingParams(max_tokens=3, ignore_eos=True), ImageParams(16, 16))
    link.push(request)
    for message in link.receive(0.0):
        loaded.engine.submit(message)
    while loaded.scheduler.has_work:
        loaded.engine.step()

    finished = [end for report in link.reports for end in report.finished]
    assert [(end.request_id, end.reason) for end in finished] == [("a", FinishReason.LENGTH)]
    assert sum(len(report.tokens) for report in link.reports) == 3


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"llm_config\.json"):
        load_engine(EngineOptions(str(tmp_path)), LocalLink())


def test_pages_cost_memory_only_when_they_are_written() -> None:
    """A pool sized from free memory is gigabytes; a server that has answered little must not hold them."""

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident_bytes()
    loaded = load_engine(EngineOptions(str(CHECKPOINT), num_pages=100_000), LocalLink())

    pool_bytes = 100_000 * 16 * 3 * 2 * 2 * 16 * 4
    assert loaded.ready.num_pages == 100_000
    assert resident_bytes() - before < pool_bytes / 4


@pytest.mark.parametrize("times_memory", [1.1, 1000.0], ids=["a little more than there is", "far more"])
def test_more_pages_than_there_is_memory_are_refused_with_what_fits(times_memory: float) -> None:
    page = 16 * 3 * 2 * 2 * 16 * 4
    num_pages = int(times_memory * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) // page

    with pytest.raises(TooManyPages, match=rf"{num_pages:,} pages take .* GB are left .*: too little memory") as refused:
        load_engine(replace(OPTIONS, num_pages=num_pages), LocalLink())

    (fits,) = re.findall(r"--num-pages (\d+) or less", str(refused.value))
    assert load_engine(replace(OPTIONS, num_pages=int(fits)), LocalLink()).ready.num_pages == int(fits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_engine_answers_from_a_cache_of_8_bit_floats(dtype: str) -> None:
    wide, rounded = (load_engine(replace(OPTIONS, dtype=dtype, kv_dtype=name), LocalLink()) for name in ("auto", "fp8"))

    warm_up(rounded)

    assert (wide.ready.kv_dtype, rounded.ready.kv_dtype) == (dtype, "float8_e4m3fn")
    assert rounded.ready.dtype == dtype and rounded.pool.num_used == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_engine_of_8_bit_floats_answers_in_half_the_memory(dtype: str) -> None:
    """The matrices of the experts take a byte each; words and a picture come all the same, as finite as ever."""
    wide, rounded = (load_engine(replace(OPTIONS, dtype=dtype, quantization=name), LocalLink()) for name in ("none", "fp8"))

    warm_up(rounded)

    sizes = [[matrix.nbytes for expert in loaded.model.experts for matrix in expert.matrices] for loaded in (wide, rounded)]
    itemsize = wide.model.dtype.itemsize
    assert sizes[0] == [itemsize * num_bytes for num_bytes in sizes[1]]
