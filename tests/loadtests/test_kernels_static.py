"""The kernels' static report counts what the work lists hold, and what is committed is what the code says."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from loadtests.kernels.__main__ import RESULTS, report
from loadtests.kernels.shapes import BAGEL, SHAPES, Shape, decode, denoise, layout_of
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


def test_the_committed_report_is_what_the_code_says() -> None:
    committed = json.loads((RESULTS / "static.json").read_text())
    predictions = [prediction for shape in SHAPES for prediction in predict(shape, H200)]
    assert committed["predictions"] == [pytest.approx(asdict(prediction)) for prediction in predictions]
    assert (RESULTS / "static.md").read_text() == report(committed["compiled"], predictions)
