"""The drawn world: what a scene may hold, how it looks, and which combinations training never sees."""

from __future__ import annotations

import colorsys
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from model.storybook.captions import EVERYTHING, caption, describe, prompt
from model.storybook.edits import SetBackground, apply, instruction, random_edit
from model.storybook.sampling import (
    HELD_OUT_PAIRS,
    SceneKind,
    held_out_scene,
    is_held_out,
    pooled_scene,
    random_scene,
    tinted_scene,
    training_scene,
)
from model.storybook.scenes import MIDDLE, RGB, Background, Colour, Place, Shape, Size, Thing, centre_of, draw, make_scene

RED_STAR = Thing(Shape.STAR, Colour.RED, Size.BIG, MIDDLE)


@pytest.mark.parametrize("wide", [False, True])
def test_a_picture_has_its_format(wide: bool) -> None:
    picture = draw(make_scene([RED_STAR], Background.DAY, wide))

    assert picture.shape == (64, 96 if wide else 64, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("colour", list(Colour))
def test_a_thing_shows_its_colour_at_its_centre(colour: Colour) -> None:
    place = Place(0, 2)
    picture = draw(make_scene([Thing(Shape.CIRCLE, colour, Size.BIG, place)], Background.NIGHT))

    y, x = centre_of(place, wide=False)

    assert np.abs(picture[y, x].astype(float) - np.array(RGB[colour])).max() < 4


def test_edges_are_anti_aliased() -> None:
    picture = draw(make_scene([Thing(Shape.CIRCLE, Colour.RED, Size.BIG, MIDDLE)], Background.NIGHT))

    assert len(np.unique(picture[24, :, 0])) > 2


def test_things_that_would_touch_are_refused() -> None:
    with pytest.raises(ValueError, match="would touch"):
        make_scene([RED_STAR, RED_STAR.at(Place(1, 0))], Background.DAY)


def test_scenes_with_the_same_things_in_another_order_are_equal() -> None:
    left, right = RED_STAR.at(Place(1, 0)), RED_STAR.at(Place(1, 2))

    assert make_scene([left, right], Background.DAY) == make_scene([right, left], Background.DAY)


@pytest.mark.parametrize("kind", list(SceneKind))
def test_training_scenes_are_never_held_out(kind: SceneKind) -> None:
    rng = Random(0)

    assert not any(is_held_out(training_scene(rng, kind)) for _ in range(200))
    assert not any(is_held_out(pooled_scene(rng, kind, wide=False)) for _ in range(200))
    assert all(is_held_out(held_out_scene(rng, kind)) for _ in range(50))


def test_training_sees_every_shape_and_colour_but_no_held_out_pair() -> None:
    rng = Random(0)

    seen = {(thing.shape, thing.colour) for _ in range(2000) for thing in training_scene(rng, SceneKind.PAIR).things}

    assert seen == {(shape, colour) for shape in Shape for colour in Colour} - HELD_OUT_PAIRS


@pytest.mark.parametrize("kind", list(SceneKind))
def test_a_colour_without_a_name_is_far_in_hue_from_the_one_held_out_for_its_shape(kind: SceneKind) -> None:
    rng = Random(0)
    held_out = dict(HELD_OUT_PAIRS)
    tinted = [thing for _ in range(500) for thing in tinted_scene(rng, kind, wide=False).things if thing.tint and thing.shape in held_out]

    assert len(tinted) > 100
    for thing in tinted:
        assert thing.tint is not None
        (hue, saturation, _), (named, _, _) = (
            colorsys.rgb_to_hsv(*(part / 255 for part in rgb)) for rgb in (thing.tint, RGB[held_out[thing.shape]])
        )
        assert saturation < 0.16 or min(abs(hue - named), 1 - abs(hue - named)) >= 44 / 360


def test_a_colour_without_a_name_goes_unsaid_and_is_drawn() -> None:
    scene = make_scene([replace(RED_STAR, tint=(0, 255, 255))], Background.NIGHT)

    assert caption(scene) == "A big star in the middle at night."
    assert np.abs(draw(scene)[32, 32].astype(float) - (0, 255, 255)).max() < 4


def test_different_scenes_have_different_captions() -> None:
    rng = Random(0)
    scenes = {random_scene(rng, kind) for kind in SceneKind for _ in range(700)}

    assert len({caption(scene) for scene in scenes}) == len(scenes)


def test_prompts_say_a_small_size_and_an_unusual_place() -> None:
    scene = make_scene([Thing(Shape.HEART, Colour.RED, Size.SMALL, Place(0, 0))], Background.DAY)

    prompts = [prompt(scene, Random(seed)) for seed in range(50)]

    assert all("small" in words and "top left" in words for words in prompts)
    assert len(set(prompts)) > 20


def test_relations_name_things_in_the_order_they_stand() -> None:
    star, heart = RED_STAR.at(Place(0, 1)), Thing(Shape.HEART, Colour.BLUE, Size.BIG, Place(2, 1))
    scene = make_scene([star, heart], Background.DAY)

    told = {describe(scene, EVERYTHING, Random(seed)) for seed in range(40)}

    assert "a big red star above a big blue heart by day" in told
    assert "a big blue heart below a big red star by day" in told
    assert not any("heart above" in words or "star below" in words for words in told)


def test_an_edit_changes_the_scene_and_keeps_the_rest() -> None:
    rng = Random(0)
    for _ in range(300):
        scene = random_scene(rng, rng.choice((SceneKind.SINGLE, SceneKind.PAIR)))
        edit = random_edit(scene, rng)
        changed = apply(edit, scene)

        assert changed != scene
        assert instruction(edit, scene, rng)
        assert changed.background is scene.background or isinstance(edit, SetBackground)
        assert len(set(scene.things) & set(changed.things)) >= len(scene.things) - 1
