"""Random scenes, and the split: which combinations training never sees.

The split is by combination, not by picture: a few colour-shape pairs, and by a stable hash some layouts, some pairs of things and
some (number, shape, colour) triples, are held out of every training task. The scoreboard asks for those alone.
"""

from __future__ import annotations

import colorsys
import math
import zlib
from collections.abc import Iterable
from dataclasses import replace
from enum import Enum
from random import Random

from model.storybook.scenes import MIDDLE, PALETTES, PLACES, RGB, Background, Colour, Place, Rgb, Scene, Shape, Size, Thing, make_scene

HELD_OUT_PAIRS = frozenset(
    {
        (Shape.HEART, Colour.GREEN),
        (Shape.STAR, Colour.PURPLE),
        (Shape.TRIANGLE, Colour.BLUE),
        (Shape.CIRCLE, Colour.ORANGE),
    }
)
"""Four of the thirty colour-shape pairs; each shape and each colour is seen in other pairs."""

COUNT_PLACES: dict[int, tuple[Place, ...]] = {
    2: (Place(1, 0), Place(1, 2)),
    3: (Place(0, 1), Place(2, 0), Place(2, 2)),
    4: (Place(0, 0), Place(0, 2), Place(2, 0), Place(2, 2)),
}
"""Where the things of a counting scene stand: side by side, a pyramid, four corners."""

POOL_SIZE = 20_000
"""Training scenes of one kind and format."""
TINTED_POOL_SIZE = 6000
"""Such scenes with things in colours that have no name."""
TINT_DISTANCE = 60.0
"""RGB distance of such a colour from all that have one, and from the backgrounds."""
HUE_DISTANCE = 45 / 360
"""Share of the colour circle that a tint keeps from the colour held out for its shape, unless it is nearly grey."""
GREY_SATURATION = 0.15
NAMED = (*RGB.values(), *(rgb for palette in PALETTES.values() for rgb in (palette.zenith, palette.horizon, palette.ground)))

LEFT_RIGHT = (Place(1, 0), Place(1, 2))
TOP_BOTTOM = (Place(0, 1), Place(2, 1))
CLEAR_PLACES = tuple((a, b) for a in PLACES for b in PLACES if a < b and a.is_clear_of(b))


class SceneKind(Enum):
    SINGLE = "single"
    PAIR = "pair"
    COUNT = "count"


def kind_of(scene: Scene) -> SceneKind:
    if len(scene.things) == 1:
        return SceneKind.SINGLE
    return SceneKind.COUNT if scene.is_count else SceneKind.PAIR


def is_held_out(scene: Scene) -> bool:
    """Whether training must never see this scene (in any task, as input or as answer)."""
    if any(_is_pair_held_out(thing) for thing in scene.things):
        return True
    match kind_of(scene):
        case SceneKind.SINGLE:
            return has_held_out_layout(scene)
        case SceneKind.PAIR:
            things = sorted(f"{thing.colour.value} {thing.shape.value}" for thing in scene.things)
            return _falls_in(8, things) or has_held_out_layout(scene)
        case SceneKind.COUNT:
            first = scene.things[0]
            return _falls_in(7, (str(len(scene.things)), first.shape.value, first.colour.value))


def _is_pair_held_out(thing: Thing) -> bool:
    """Whether a thing has the colour held out for its shape; a tint, one that a person might call by the same word."""
    if thing.tint is None:
        return (thing.shape, thing.colour) in HELD_OUT_PAIRS
    return any(_may_be_called(thing.tint, colour) for shape, colour in HELD_OUT_PAIRS if shape is thing.shape)


def _may_be_called(tint: Rgb, colour: Colour) -> bool:
    """Whether hues are close, and the tint is not plain grey."""
    (hue, saturation, _), (other, _, _) = (colorsys.rgb_to_hsv(*(part / 255 for part in rgb)) for rgb in (tint, RGB[colour]))
    return saturation > GREY_SATURATION and abs((hue - other + 0.5) % 1.0 - 0.5) < HUE_DISTANCE


def has_held_out_layout(scene: Scene) -> bool:
    """Whether training sees this arrangement of shapes, sizes, places and background in no colours at all.

    Of arrangements that differ in the background alone, at most one is held out: what is unseen is the combination, not half of it.
    """
    held_out = (background for background in Background if _falls_in(8, _layout(replace(scene, background=background))))
    return next(held_out, None) is scene.background


def is_story_held_out(subject: Thing, num_panels: int) -> bool:
    """Whether a story of this subject and length is kept for the scoreboard."""
    return _falls_in(8, ("story", subject.shape.value, subject.colour.value, subject.size.value, str(num_panels)))


def random_scene(rng: Random, kind: SceneKind, wide: bool = False) -> Scene:
    """Draw a scene of a kind, held out or not."""
    match kind:
        case SceneKind.SINGLE:
            return _random_single(rng, wide)
        case SceneKind.PAIR:
            return _random_pair(rng, wide)
        case SceneKind.COUNT:
            return random_count(rng, rng.choice((2, 3, 4)), wide)


def random_count(rng: Random, number: int, wide: bool = False) -> Scene:
    """Draw ``number`` (2 to 4) things of one kind on their usual places."""
    thing = random_thing(rng, MIDDLE)
    return make_scene([thing.at(place) for place in COUNT_PLACES[number]], rng.choice(tuple(Background)), wide)


def training_scene(rng: Random, kind: SceneKind, wide: bool = False) -> Scene:
    """Draw a scene of a kind that is not held out."""
    while is_held_out(scene := random_scene(rng, kind, wide)):
        pass
    return scene


def held_out_scene(rng: Random, kind: SceneKind, wide: bool = False) -> Scene:
    """Draw a scene of a kind that training never saw."""
    while not is_held_out(scene := random_scene(rng, kind, wide)):
        pass
    return scene


def pooled_scene(rng: Random, kind: SceneKind, wide: bool) -> Scene:
    """Draw one of a fixed number of training scenes of a kind: they come back with other words, their pictures made once."""
    return training_scene(Random(f"{kind.value} {wide} {rng.randrange(POOL_SIZE)}"), kind, wide)


def tinted_scene(rng: Random, kind: SceneKind, wide: bool) -> Scene:
    """Draw one of a fixed number of training scenes with things in colours that the world has no word for.

    They teach what a shape is whatever its colour, and so what an unseen pair of both is. Things of one shape could not be told apart
    without their colours, so two of them are not tinted.
    """
    own = Random(f"tinted {kind.value} {wide} {rng.randrange(TINTED_POOL_SIZE)}")
    while is_held_out(scene := _tinted(training_scene(own, kind, wide), own)):
        pass
    return scene


def _tinted(scene: Scene, rng: Random) -> Scene:
    """Tint all things of one kind alike; of two, one or both."""
    if kind_of(scene) is not SceneKind.PAIR:
        tint = random_tint(rng)
        return replace(scene, things=tuple(replace(thing, tint=tint) for thing in scene.things))
    first, second = scene.things
    if first.shape is second.shape:
        return scene
    spared = rng.choice((first, second, None, None))
    things = [thing if thing is spared else replace(thing, tint=random_tint(rng)) for thing in scene.things]
    return replace(scene, things=tuple(things))


def random_tint(rng: Random) -> Rgb:
    """Draw a colour that is far from all that have a name, and from every background."""
    while min(math.dist(tint := (rng.randrange(256), rng.randrange(256), rng.randrange(256)), other) for other in NAMED) < TINT_DISTANCE:
        pass
    return tint


def random_thing(rng: Random, place: Place) -> Thing:
    return Thing(rng.choice(tuple(Shape)), rng.choice(tuple(Colour)), rng.choice(tuple(Size)), place)


def _random_single(rng: Random, wide: bool) -> Scene:
    place = MIDDLE if rng.random() < 0.3 else rng.choice(PLACES)
    return make_scene([random_thing(rng, place)], rng.choice(tuple(Background)), wide)


def _random_pair(rng: Random, wide: bool) -> Scene:
    """Two different things: mostly side by side or one above the other, now and then on any two clear places."""
    draw = rng.random()
    places = LEFT_RIGHT if draw < 0.5 else TOP_BOTTOM if draw < 0.8 else rng.choice(CLEAR_PLACES)
    first = random_thing(rng, places[0])
    while (second := random_thing(rng, places[1])).kind == first.kind:
        pass
    return make_scene([first, second], rng.choice(tuple(Background)), wide)


def _layout(scene: Scene) -> list[str]:
    """Everything about a scene but its colours."""
    things = [f"{thing.size.value} {thing.shape.value} {thing.place.row} {thing.place.column}" for thing in scene.things]
    return [*things, scene.background.value]


def _falls_in(one_of: int, words: Iterable[str]) -> bool:
    """Whether a stable hash of ``words`` picks them, which happens to one in ``one_of``."""
    return zlib.crc32("|".join(words).encode()) % one_of == 0
