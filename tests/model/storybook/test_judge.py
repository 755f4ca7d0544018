"""The judge reads drawn pictures without an error, soft and noisy ones too, and rejects wrong ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import numpy.typing as npt
import pytest

from model.storybook.edits import apply, random_edit
from model.storybook.judge import blur, read
from model.storybook.sampling import SceneKind, random_scene
from model.storybook.scenes import MIDDLE, Background, Colour, Scene, Shape, Size, Thing, draw, make_scene

Pixels = npt.NDArray[np.uint8]


def scenes(number: int) -> list[Scene]:
    rng = Random(7)
    return [random_scene(rng, rng.choice(tuple(SceneKind)), wide=rng.random() < 0.3) for _ in range(number)]


def spoilt(picture: Pixels, softness: float, noise: float) -> Pixels:
    rng = np.random.default_rng(0)
    soft = blur(picture.astype(np.float32), softness) + rng.normal(0.0, noise, picture.shape)
    return np.clip(soft, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("softness", "noise"), [(0.0, 0.0), (0.7, 0.0), (1.0, 0.0), (1.4, 0.0), (0.0, 10.0), (0.8, 8.0)])
def test_drawn_scenes_are_read_without_an_error(softness: float, noise: float) -> None:
    assert all(read(spoilt(draw(scene), softness, noise)).shows(scene) for scene in scenes(150))


@pytest.mark.parametrize("softness", [0.0, 1.0])
def test_no_shape_colour_or_size_is_taken_for_another(softness: float) -> None:
    confusion: Counter[tuple[object, object]] = Counter()
    for shape in Shape:
        for colour in Colour:
            for size in Size:
                for background in Background:
                    picture = draw(make_scene([Thing(shape, colour, size, MIDDLE)], background))
                    (seen,) = read(spoilt(picture, softness, 0.0)).things
                    confusion[(shape, colour, size), (seen.shape, seen.colour, seen.size)] += 1

    assert {meant for meant, seen in confusion if meant == seen} == {meant for meant, _ in confusion}
    assert all(meant == seen for meant, seen in confusion)


def test_a_picture_never_shows_another_scene() -> None:
    drawn = scenes(120)
    readings = [read(draw(scene)) for scene in drawn]

    wrong = [reading.shows(other) for reading, scene in zip(readings, drawn, strict=True) for other in drawn if other != scene]

    assert not any(wrong)


def test_every_edit_is_noticed() -> None:
    rng = Random(3)
    for scene in scenes(200):
        if scene.is_count:
            continue
        changed = apply(random_edit(scene, rng), scene)

        assert not read(draw(scene)).shows(changed)


def test_an_extra_thing_is_noticed() -> None:
    one = make_scene([Thing(Shape.STAR, Colour.RED, Size.SMALL, MIDDLE)], Background.DAY)
    picture = draw(one)
    picture[4:12, 4:12] = (40, 168, 72)

    assert not read(picture).shows(one)


def test_a_broken_outline_has_no_shape() -> None:
    picture = draw(make_scene([Thing(Shape.SQUARE, Colour.BLUE, Size.BIG, MIDDLE)], Background.DAY))
    picture[30:45, 28:34] = picture[30:45, 2:8]

    (seen,) = read(picture).things

    assert seen.shape is None
    assert seen.colour is Colour.BLUE


def test_an_unknown_colour_is_none() -> None:
    scene = make_scene([Thing(Shape.CIRCLE, Colour.RED, Size.BIG, MIDDLE)], Background.DAY)
    picture = draw(scene)
    red = (picture[..., 0] > 180) & (picture[..., 1] < 90)
    picture[red] = (0, 0, 0)

    (seen,) = read(picture).things

    assert seen.colour is None


def test_an_unknown_background_is_none() -> None:
    reading = read(np.full((64, 64, 3), 128, dtype=np.uint8))

    assert reading.background is None


def test_the_background_is_part_of_the_description() -> None:
    scene = make_scene([Thing(Shape.CIRCLE, Colour.RED, Size.BIG, MIDDLE)], Background.DAY)

    reading = read(draw(replace(scene, background=Background.NIGHT)))

    assert not reading.shows(scene)
    assert reading.shows_things(scene)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="64 x 64"):
        read(np.zeros((32, 32, 3), dtype=np.uint8))
