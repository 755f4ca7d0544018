"""The kernels' static report counts what the work lists hold, and what is committed is what the code says."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from loadtests.kernels.__main__ import RESULTS, predict_all, report
from loadtests.kernels.compiled import Compiled
from loadtests.kernels.memory_calls import memory_calls, predict_memory
from loadtests.kernels.shapes import BAGEL, SHAPES, Shape, decode, denoise, layout_of
from loadtests.kernels.shipped import shipped
from loadtests.kernels.static import H200, predict


def test_a_row_whose_tiles_fit_needs_no_more_tiles_than_are_computed() -> None:
    """18 queries of a tile x 7 heads, 64 keys: 1,152 queries over as many keys and 64 in pages are 64 x 19 tiles."""
    (prediction,) = predict(Shape("fits", (denoise(64, 1150),), BAGEL), H200)
    assert prediction.tiles_computed == prediction.tiles_needed == 64 * 19
    assert prediction.masked_share == 0.0


def test_the_bound_of_decode_rows_is_their_keys_and_values() -> None:
    (prediction,) = predict(Shape("decode", (decode(2047),) * 64, BAGEL), H200)
    keys_and_values_us = 64 * 2048 * 2 * 4 * 128 * 2 / 4.3e12 * 1e6
    assert keys_and_values_us < prediction.predicted_us < 1.1 * keys_and_values_us


def test_tiles_computed_are_within_a_tenth_of_tiles_needed_where_rows_are_long() -> None:
    for shape in SHAPES:
        for prediction in predict(shape, H200):
            if prediction.kind == "long":
                assert prediction.tiles_computed <= 1.1 * prediction.tiles_needed, shape.name


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_every_shape_has_a_layout_that_holds_together(shape: Shape) -> None:
    layout = layout_of(shape, 16)
    assert sorted(layout.token_index.tolist()) == list(range(shape.num_tokens))
    assert layout.kv_end.max() <= (layout.past_len + layout.qo_indptr[1:] - layout.qo_indptr[:-1]).max()


COMMITTED = json.loads((RESULTS / "static.json").read_text())
COMPILED = [Compiled(**one) for one in COMMITTED["compiled"]]


def test_the_committed_report_is_what_the_code_says() -> None:
    found = predict_all(COMPILED)
    for name, predictions in asdict(found).items():
        assert COMMITTED[name] == [pytest.approx(prediction) for prediction in predictions]
    assert (RESULTS / "static.md").read_text() == report(COMPILED, found)


def test_every_kernel_that_is_shipped_is_reported_and_has_a_bound() -> None:
    names = {one.name for one in COMPILED if one.triton == COMPILED[0].triton and one.capability == H200.generation.value}
    assert names == {spec.name for spec in shipped(H200.generation)}
    bounded = {f"{call.kernel} bf16" for call in memory_calls(H200)}
    assert bounded == {name for name in names if not name.startswith("attention")}


def test_the_bound_of_a_norm_is_its_rows_there_and_back() -> None:
    (norm,) = (call for call in memory_calls(H200) if call.kernel == "rms_norm" and "decoded" in call.what)
    prediction = predict_memory(norm, {"rms_norm": 10}, H200)
    there_and_back_us = 2 * 64 * 3584 * 2 / 4.3e12 * 1e6
    assert there_and_back_us < prediction.predicted_us < 1.02 * there_and_back_us
    assert prediction.computed_by_needed == 4096 / 3584
    assert prediction.waves == 64 / 1320


def test_no_launch_needs_less_than_it_computes_or_moves_nothing() -> None:
    for call in memory_calls(H200):
        assert call.computed >= call.needed > 0 and call.programs > 0 and min(call.bytes_read, call.bytes_written) > 0, call
