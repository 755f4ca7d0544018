"""The scoreboard's own judges: drawn truth passes every row, a wrong answer passes none."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from loadtests.storybook.client import Answer, data_uri, read_answer
from loadtests.storybook.evaluate import items_of, wilson_interval
from loadtests.storybook.rows import ROWS, Row
from model.storybook.captions import caption
from model.storybook.sampling import SceneKind, is_held_out, random_scene
from model.storybook.scenes import MIDDLE, Background, Colour, Shape, Size, Thing, draw, make_scene

STAR = make_scene([Thing(Shape.STAR, Colour.RED, Size.BIG, MIDDLE)], Background.DAY)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_asks_as_many_different_things_as_are_wanted(row: Row) -> None:
    items = items_of(row, 200, seed=0)

    asked = {(item.question.words, b"" if item.question.picture is None else item.question.picture.tobytes()) for item in items}
    assert len(asked) == 200


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_empty_answer_is_never_right(row: Row) -> None:
    blank = np.full((64, 64, 3), 128, dtype=np.uint8)

    for item in items_of(row, 10, seed=1):
        assert not item.judge(Answer(parts=["Nothing.", blank], finish_reason="stop"))["right"]
        assert not item.judge(Answer(parts=[], finish_reason="stop"))["right"]


def test_a_caption_row_takes_the_exact_caption_alone() -> None:
    row = next(row for row in ROWS if row.name == "captions")
    rng = Random(0)
    scenes = {draw(scene).tobytes(): scene for scene in (random_scene(rng, kind) for kind in SceneKind for _ in range(3000))}
    asked = [item for item in items_of(row, 60, seed=0) if item.question.picture is not None]
    known = [item for item in asked if item.question.picture is not None and item.question.picture.tobytes() in scenes]

    assert known
    for item in known:
        assert item.question.picture is not None
        scene = scenes[item.question.picture.tobytes()]
        assert is_held_out(scene)
        assert item.judge(Answer([caption(scene)], "stop"))["right"]
        assert not item.judge(Answer([caption(STAR)], "stop"))["right"] or scene == STAR


def test_a_chat_completion_is_read_in_order() -> None:
    picture = draw(STAR)
    message = {
        "content": "Once.Then.",
        "images": [{"index": 0, "type": "image_url", "image_url": {"url": data_uri(picture)}}],
        "content_parts": [
            {"index": 0, "type": "text", "text": "Once."},
            {"index": 1, "type": "image_url", "image_index": 0},
            {"index": 2, "type": "text", "text": "Then."},
        ],
    }

    answer = read_answer({"choices": [{"message": message, "finish_reason": "stop"}]})

    assert answer.text == "Once.Then."
    assert np.array_equal(answer.pictures[0], picture)
    assert [isinstance(part, str) for part in answer.parts] == [True, False, True]


def test_the_interval_of_a_perfect_row_does_not_reach_certainty() -> None:
    low, high = wilson_interval(200, 200)

    assert 0.97 < low < 0.99
    assert high == 1.0
