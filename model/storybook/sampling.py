"""Random scenes, and the split: which combinations training never sees.

The split is by combination, not by picture: a few colour-shape pairs, and by a stable hash some layouts, some pairs of things and
some (number, shape, colour) triples, are held out of every training task. The scoreboard asks for those alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import replace
from enum import Enum
from random import Random

from model.storybook.scenes import MIDDLE, PLACES, Background, Colour, Place, Scene, Shape, Size, Thing, make_scene

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
    if any((thing.shape, thing.colour) in HELD_OUT_PAIRS for thing in scene.things):
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
