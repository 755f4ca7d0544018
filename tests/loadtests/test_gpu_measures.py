"""What the GPU script's figures are made of."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.fp8 import Fp8Rows
from kernels.linear import fp8_product
from loadtests.gpu.ahead import are_alike
from loadtests.gpu.attention import measure_peers
from loadtests.gpu.beside import until_it_is_there
from loadtests.gpu.busy import Kernel, Trace, covered, time_steps, warm_engine, watch
from loadtests.gpu.check import groups
from loadtests.gpu.fp8_checks import product_lines
from loadtests.gpu.matrices import Matrix
from loadtests.gpu.mixed import mixed_lines
from loadtests.gpu.part import Line, Options, Report
from loadtests.gpu.peers import Call, CannotTake, Site, asks_for_grouped_heads, peers
from loadtests.gpu.pictures import draw
from loadtests.gpu.products import Product, num_taking_turns
from loadtests.gpu.products import measure as measure_product
from loadtests.gpu.random_engine import (
    PROMPT_TOKENS,
    SERVER_TARGET_DECODES,
    SERVER_TARGET_S,
    chat_request,
    edit_request,
    from_idle,
    looking_request,
    random_engine,
    step,
    with_target,
)
from loadtests.gpu.roofline import panels_of, roof_points
from loadtests.gpu.timing import Work, timing_as_graph
from loadtests.gpu.traffic import Traffic
from loadtests.kernels.shapes import BAGEL, TINY_SHAPES, Row, Segment, Shape, decode, denoise
from loadtests.machine import Rates, run_for
from server.engine.decode_graphs import Replay
from server.front import DEFAULT_TARGET_DECODES, DEFAULT_TARGET_MS
from server.messages import Picture

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "loadtests" / "gpu" / "run.sh"
CPU = Site(torch.float32, torch.device("cpu"))


def test_time_that_two_kernels_share_counts_once() -> None:
    assert covered([(5.0, 7.0), (0.0, 2.0), (1.0, 3.0), (1.5, 2.5)]) == 5.0
    assert covered([]) == 0.0


def test_a_kernel_of_the_step_that_runs_ahead_counts_with_its_time() -> None:
    """Kernels of 21 steps were set against the host's time of 20: a device that idled a twentieth of its time passed for busy."""
    steps_us = [(10.0 * number, 10.0 * number + 9.5) for number in range(21)]
    trace = Trace(Kernel("step", *times) for times in steps_us)
    assert trace.span_us == 209.5
    assert trace.busy == pytest.approx(21 * 9.5 / 209.5)
    assert trace.largest(1) == [("step", trace.busy)]


def test_a_trace_without_kernels_says_nothing_of_the_device() -> None:
    """It was taken for one that had nothing to do."""
    with pytest.raises(ValueError, match="not measured"):
        Trace([])


@pytest.mark.parametrize("row", [Row(0, ((Segment.TEXT, 3),)), Row(2, ((Segment.TEXT, 1), (Segment.LATENTS, 6)))])
def test_a_peer_without_the_mask_does_not_pretend(row: Row) -> None:
    with pytest.raises(CannotTake, match="mask is not full"):
        peers()["varlen attention"](Shape("masked", (row,), BAGEL), CPU)


def test_rows_of_different_lengths_are_not_made_alike() -> None:
    with pytest.raises(CannotTake, match="not alike"):
        peers()["sdpa flash"](Shape("mixed", (decode(3), denoise(3, 4)), BAGEL), CPU)


def test_varlen_attention_is_told_of_grouped_heads_only_where_it_asks() -> None:
    def of_torch_2_11(query: torch.Tensor, *, is_causal: bool = False) -> None: ...

    def of_torch_2_12(query: torch.Tensor, *, enable_gqa: bool = False) -> None: ...

    assert [asks_for_grouped_heads(attend) for attend in (of_torch_2_11, of_torch_2_12)] == [False, True]


def test_a_peer_that_loses_the_device_has_its_line_and_ends_the_measurement(tmp_path: Path) -> None:
    """It was taken for one that could not take the shape, and so was every peer and every shape after it."""

    def peer(message: str, shape: Shape, site: Site) -> Call:
        raise RuntimeError(message)

    says = {"refuses": "no kernel for heads of 72", "faults": "CUDA error: an illegal memory access was encountered", "after": ""}
    lines = measure_peers(TINY_SHAPES[0], {name: partial(peer, said) for name, said in says.items()}, Options(CPU.device, True, tmp_path))
    assert [next(lines)["not measured"] for _ in range(2)] == [says["refuses"], says["faults"]]
    with pytest.raises(RuntimeError, match="illegal memory access"):
        next(lines)


def test_what_warms_a_gpu_is_run_until_its_seconds_are_over() -> None:
    calls: list[float] = []
    seconds = iter(range(10))
    run_for(3.0, lambda: calls.append(1.0), clock=lambda: float(next(seconds)))
    assert len(calls) == 2


def test_a_time_says_whether_the_host_is_in_it() -> None:
    calls: list[str] = []

    def stopwatch(work: Work) -> float:
        calls.clear()
        work()
        return float(len(calls))

    def fail(work: Replay) -> Replay:
        raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED\nat CUDACachingAllocator.cpp")

    def work() -> None:
        calls.append("called")

    captured = timing_as_graph(work, lambda work: work, stopwatch)
    assert captured.columns == {"us": 1e6, "timed": "in a graph"}, "of one call of the several that were captured"
    failed = timing_as_graph(work, fail, stopwatch)
    assert failed.columns == {"us": 1e6, "timed": "call by call, not captured: captures_underway.empty() INTERNAL ASSERT FAILED"}


def test_a_measurement_that_raises_is_a_line_and_costs_no_other(tmp_path: Path) -> None:
    report = Report(Options(torch.device("cpu"), True, tmp_path), "part")

    def broken() -> Iterator[Line]:
        yield {"what": "first", "us": 1.0}
        raise RuntimeError("no kernel image\nis available")

    report.add("kernels", broken)
    second: Line = {"what": "second", "us": 2.0}
    report.add("after", lambda: second)
    assert report.has_failed
    saved = json.loads((tmp_path / "part.json").read_text())["lines"]
    assert saved == [{"what": "first", "us": 1.0}, {"what": "kernels", "raised": "RuntimeError: no kernel image"}, second]


def test_what_a_measurement_has_brought_is_saved_before_it_goes_on(tmp_path: Path) -> None:
    """A part's limit ended it in the middle of one, whose lines were lost: ways to cut attention are compiled for longer than that."""
    report = Report(Options(torch.device("cpu"), True, tmp_path), "part")
    saved: list[list[Line]] = []

    def measurement() -> Iterator[Line]:
        yield {"what": "first"}
        saved.append(json.loads((tmp_path / "part.json").read_text())["lines"])
        yield {"what": "second"}

    report.add("kernels", measurement)
    assert saved == [[{"what": "first"}]]


@pytest.mark.slow
def test_kernels_are_compiled_beforehand_as_they_are_launched(tmp_path: Path) -> None:
    """Of each launch the compilation takes place, and what it leaves is found by who compiles the same."""
    command = [sys.executable, "-m", "loadtests.gpu.compiling", "golden Euler steps, torch.float32", "rms_norm"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    left = []
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
        left.append(sorted(path.name for path in tmp_path.rglob("*.cubin")))
    assert left == [["guide_kernel.cubin", "renorm_kernel.cubin", "rms_norm_kernel.cubin"]] * 2, done.stdout


EVERY_WORK = """
import triton
from loadtests.gpu.compiling import NoDriver, works

triton.runtime.driver.set_active(NoDriver())
launched = []
triton.knobs.runtime.jit_cache_hook = lambda fn, **_: launched.append(fn.name) or True
for name, work in works().items():
    num_before = len(launched)
    work()
    assert len(launched) > num_before, name
"""


@pytest.mark.slow
def test_every_work_that_is_compiled_beforehand_launches_kernels() -> None:
    """One that its wrapper refuses is named in a log that nobody reads, and compiled when a part has no time for it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", EVERY_WORK], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


LOSES_ITS_DEVICE = """
import os, sys
from loadtests.gpu.mixed import mixed_lines
from loadtests.gpu.part import Report, read_options

report = Report(read_options("planted", None), "planted")
faults = []

def on_the_device(line, breaks=False):
    def measure():
        if breaks or faults:
            faults.append(line)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        yield {"what": line}
    return measure

for number in range(3):
    report.add(f"{number}", on_the_device(f"{number}", breaks=number == 1))
report.add("faults here", lambda: {"what": "faults here", "value": len(faults)})
sys.exit(int(report.has_failed))
"""


@pytest.mark.slow
def test_a_part_that_loses_its_device_goes_on_in_a_new_process_behind_what_lost_it(tmp_path: Path) -> None:
    """All that followed an illegal access failed with it: one wrong kernel cost every number of the part."""
    script = tmp_path / "planted.py"
    script.write_text(LOSES_ITS_DEVICE)
    command = [sys.executable, str(script), "--device", "cpu", "--tiny", "--out", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    lines = json.loads((tmp_path / "planted.json").read_text())["lines"]
    assert [line["what"] for line in lines] == ["0", "1", "2", "faults here"]
    assert [line["what"] for line in lines if "raised" in line] == ["1"]
    assert lines[-1]["value"] == 0


def test_a_part_begins_anew_no_more_often_than_it_measures(tmp_path: Path) -> None:
    def begin(after: int) -> None:
        raise SystemExit(after)

    def broken() -> Line:
        raise RuntimeError("CUDA error: unspecified launch failure")

    def run(after: int) -> int | None:
        report = Report(Options(torch.device("cpu"), True, tmp_path, after), "part", begin)
        try:
            for number in range(3):
                report.add(f"{number}", broken)
        except SystemExit as ended:
            return int(str(ended))
        return None

    assert [run(after) for after in range(4)] == [1, 2, 3, None]


def test_what_a_failed_measurement_left_running_is_drained_within_the_next_one(tmp_path: Path) -> None:
    """It was drained between the two, where a device that was lost by then ended the part."""
    loaded = random_engine(Options(torch.device("cpu"), True, tmp_path))
    loaded.engine.submit(chat_request("left", 10, 10_000))
    step(loaded)
    measure = from_idle(loaded, lambda: len(loaded.scheduler.running))
    assert len(loaded.scheduler.running) == 1
    assert measure() == 0


@pytest.mark.slow
def test_mixed_traffic_says_what_pictures_and_chats_cost_each_other(tmp_path: Path) -> None:
    """The rate of the pictures alone was missing, and forty steps have no slowest hundredth."""
    loaded = random_engine(Options(torch.device("cpu"), True, tmp_path))
    for engine in (loaded, with_target(loaded)):
        alone, mixed = mixed_lines(engine, Traffic(16, num_pictures=1, num_chats=2), "some goal")
        assert mixed["of alone"] == float(mixed["denoise rows/s"]) / float(alone["denoise rows/s"])
        assert int(mixed["steps"]) >= 300 and int(mixed["gaps"]) == 2 * (int(mixed["steps"]) - 1)
        assert float(mixed["value"]) <= float(mixed["p99"]) <= float(mixed["max"])
        assert loaded.pool.num_free == loaded.pool.num_pages


def test_the_target_is_the_one_that_servers_have() -> None:
    assert (1e3 * SERVER_TARGET_S, SERVER_TARGET_DECODES) == (DEFAULT_TARGET_MS, DEFAULT_TARGET_DECODES)


def test_an_edit_is_drawn_in_three_branches_over_the_picture_it_is_given(tmp_path: Path) -> None:
    loaded = random_engine(Options(torch.device("cpu"), True, tmp_path))
    steps, kv_lens = draw(loaded, edit_request("edit", 16, 3, loaded.model.config))
    assert sum(stats.num_denoise_rows for stats in steps) == 3 * 2
    assert len(kv_lens) == 3 and kv_lens[0] > PROMPT_TOKENS and kv_lens[0] > max(kv_lens[1:])


def test_what_is_missing_on_a_machine_is_named() -> None:
    command, env = [sys.executable, "-m", "loadtests.gpu.installed"], {"PATH": "/nowhere", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    said = dict(line.strip().split(": ", 1) for line in done.stdout.splitlines())
    assert said["gcc"] == said["GPU, driver, memory"] == "missing"
    assert said["torch"] == torch.__version__
    assert {"CUDA that torch was built with", "cuBLAS", "Triton", "Python.h"} <= said.keys()


def test_a_roof_rises_with_the_bandwidth_up_to_the_rate_of_a_large_product() -> None:
    assert roof_points(4.0, 800.0, (1.0, 1000.0)) == [(1.0, 4.0), (200.0, 800.0), (1000.0, 800.0)]
    assert roof_points(4.0, 800.0, (300.0, 500.0)) == [(300.0, 800.0), (500.0, 800.0)]


def test_the_roofline_shows_products_and_attention_beside_the_fastest_peer() -> None:
    ceilings: list[Line] = [{"what": what, "value": 2.0} for what in ("large matmul", "large copy", "large read")]
    product: Line = {"kernel": "8-bit floats", "FLOP/B": 3.0, "TFLOP/s": 1.5}
    shapes: list[Line] = [{"kernel": name, "FLOP/B": 0.5, "TFLOP/s": rate} for name, rate in (("plait", 0.9), ("sdpa", 0.6), ("flex", 0.7))]
    untimed: Line = {"kernel": "varlen", "not measured": "its mask is not full"}
    products, attention = panels_of({"products": [*ceilings, product], "attention": [*shapes, untimed]})
    assert [series.name for series in products.series] == ["roof", "roof of 8-bit floats", "8-bit floats"]
    assert {series.name: series.points for series in attention.series if series.is_scatter} == {
        "plait": [(0.5, 0.9)],
        "fastest peer": [(0.5, 0.7)],
    }
    assert panels_of({"attention": shapes}) == [], "without ceilings there is no roof"


def test_the_script_is_over_within_nine_minutes() -> None:
    limits = re.findall(r"^(?:part (\w+)|timeout --kill-after=1) (\d+)\b", SCRIPT.read_text(), re.MULTILINE)
    names = ["", "check", "engine", "attention", "products", "busy", "savings", "streams", "golden", "candidates"]
    assert [name for name, _ in limits] == names, "the first says what is installed"
    assert 510 <= sum(int(limit_s) for _, limit_s in limits) <= 9 * 60 - 10


def test_attention_and_golden_parity_are_checked_before_rarer_things(tmp_path: Path) -> None:
    """A new GPU builds kernels for each shape: what was checked after them the limit left out, and so it did them after the rest."""
    names = list(groups(Options(torch.device("cpu"), True, tmp_path)))
    first = ["golden", *(shape.name for shape in TINY_SHAPES), "replay", "ahead"]
    assert names[: len(first)] == first
    assert {"sampling", "euler", "fp8", "qkv in 8-bit floats", "down in 8-bit floats"} <= set(names[len(first) :])


def test_a_product_that_the_library_has_not_hides_no_other(tmp_path: Path) -> None:
    """Products of one size alone were tried: that cuBLASLt refuses few rows and long sums would have been seen first in serving."""

    def product(rows: Fp8Rows, weight: Fp8Rows, dtype: torch.dtype, bias: torch.Tensor | None) -> torch.Tensor:
        if len(rows.values) == 2:
            raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED when calling cublasLtMatmul\nmore of it")
        found = fp8_product(rows, weight, dtype, bias)
        return 2.0 * found if len(rows.values) == 5 else found

    matrix = Matrix("qkv", num_out=32, num_in=16, has_bias=True)
    verdicts = [line["verdict"] for line in product_lines(matrix, Options(torch.device("cpu"), True, tmp_path), product)]
    assert verdicts == ["ok", "RuntimeError: CUBLAS_STATUS_NOT_SUPPORTED when calling cublasLtMatmul", "WRONG"]


def test_the_floor_of_a_product_is_of_its_bytes_or_of_its_operations_whichever_takes_longer() -> None:
    rates = Rates(matmul_gflops=100.0, copy_gbps=1.0, read_gbps=10.0)
    product = Product("", Matrix("o", num_out=200, num_in=100), itemsize=2, out_itemsize=2, speedup=1.0, work_of=lambda _: lambda: None)
    assert product.floor_s(1, rates) == pytest.approx((2 * (100 + 200 * 100) + 2 * 200) / 10e9)
    assert product.floor_s(10_000, rates) == 2 * 10_000 * 200 * 100 / 100e9
    assert replace(product, speedup=2.0).floor_s(100_000, rates) == 100_000 * 200 * 100 / 100e9


def test_weights_that_take_turns_fill_any_cache() -> None:
    small, large = Matrix("qkv", 4608, 3584), Matrix("lm_head", 152_064, 3584)
    assert num_taking_turns(small, itemsize=2) == 9 and num_taking_turns(large, itemsize=2) == 1


def test_a_product_that_fails_has_a_line_and_costs_no_other(tmp_path: Path) -> None:
    def work_of(num_rows: int) -> Work:
        if num_rows == 1:
            raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")
        return lambda: None

    product = Product("plain", Matrix("o", 8, 8), 2, 2, 1.0, work_of)
    failed, timed = measure_product(lambda: product, Rates(1.0, 1.0, 1.0), Options(torch.device("cpu"), True, tmp_path))
    assert failed["raised"] == "RuntimeError: CUBLAS_STATUS_NOT_SUPPORTED"
    assert {"us", "TFLOP/s", "GB/s", "of floor"} <= timed.keys()


def test_pictures_whose_last_bits_differ_are_alike_and_others_are_not() -> None:
    rgb = np.full(3 * 20 * 20, 100, dtype=np.uint8)
    few, far, many = rgb.copy(), rgb.copy(), rgb.copy()
    few[:10], far[0], many[:13] = 101, 103, 101
    picture, *others = (Picture(20, 20, values.tobytes()) for values in (rgb, few, far, many))
    assert [are_alike(picture, other) for other in (picture, *others)] == [True, True, False, False]
    assert not are_alike(picture, Picture(10, 40, rgb.tobytes()))


def test_nothing_is_captured_while_the_device_is_watched(tmp_path: Path) -> None:
    """Decode steps were captured at the third of a size: within the profiled steps, whose time that then was."""
    options = Options(torch.device("cpu"), True, tmp_path)
    with torch.inference_mode():
        loaded, replays = warm_engine(options, 2)
        graphs = loaded.runner.decode_graphs
        assert graphs is not None and len(graphs.sizes) == 2, "of one chat and of two"
        before_s = graphs.capture_s
        chats = Traffic(side=16, num_pictures=0, num_chats=2)
        timed, (watched, _) = time_steps(loaded, replays, options, chats), watch(loaded, options, chats)
    assert graphs.capture_s == before_s
    assert {"ms/step", "replay ms", "replay/step"} <= timed.keys() and {"ms/step", "busy"} <= watched.keys()


def test_the_step_that_takes_an_encoded_picture_in_is_told_apart_from_tokens_beside_the_encoders(tmp_path: Path) -> None:
    """It was the longest of them, so that what was called their 99th percentile was the time of that pass."""
    loaded, _ = warm_engine(Options(torch.device("cpu"), True, tmp_path), 2)
    loaded.engine.submit(chat_request("chat", 10, 10_000))
    while step(loaded).num_decode_rows < 1:
        pass
    gaps = until_it_is_there(loaded, looking_request("looking", 16, loaded.model.config))
    assert len(gaps.taking_in_ms) == 1 and gaps.decoding_ms
    assert gaps.columns["step that takes it in, ms"] == gaps.taking_in_ms[0]
    assert gaps.columns["max"] == max(gaps.decoding_ms)
