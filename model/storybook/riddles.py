"""Think-then-draw: prompts that hide what they ask for, and the thought that says it plainly before the picture."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from model.storybook.captions import ask_for, caption, prompt, with_article
from model.storybook.sampling import SceneKind, is_held_out, training_scene
from model.storybook.scenes import MIDDLE, Colour, Scene, Shape, Size, Thing, make_scene

SHAPE_HINTS: dict[Shape, str] = {
    Shape.CIRCLE: "the shape without corners",
    Shape.SQUARE: "the shape with four equal sides",
    Shape.TRIANGLE: "the shape with three corners",
    Shape.STAR: "the shape with five points",
    Shape.HEART: "the shape of love",
}
COLOUR_HINTS: dict[Colour, str] = {
    Colour.RED: "in the colour of blood",
    Colour.ORANGE: "in the colour of carrots",
    Colour.YELLOW: "in the colour of lemons",
    Colour.GREEN: "in the colour of grass",
    Colour.BLUE: "in the colour of the sea",
    Colour.PURPLE: "in the colour of plums",
}


@dataclass(frozen=True, slots=True)
class Riddle:
    prompt: str
    thought: str
    scene: Scene


def training_riddle(rng: Random, wide: bool = False) -> Riddle:
    """Draw a riddle, or half of the time a plain prompt, with the thought that leads to its scene."""
    if rng.random() < 0.5:
        scene = training_scene(rng, rng.choice(tuple(SceneKind)), wide)
        return Riddle(prompt=prompt(scene, rng), thought=think(caption(scene)), scene=scene)
    while is_held_out((riddle := pose(training_scene(rng, SceneKind.SINGLE, wide), rng)).scene):
        pass
    return riddle


def pose(scene: Scene, rng: Random) -> Riddle:
    """Make a riddle of a scene with one thing: shape and colour by hint, in the middle, big."""
    thing = scene.things[0]
    plain = make_scene([Thing(thing.shape, thing.colour, Size.BIG, MIDDLE)], scene.background, scene.wide)
    words = f"{SHAPE_HINTS[thing.shape]} {COLOUR_HINTS[thing.colour]}"
    answer = with_article(f"{thing.colour.value} {thing.shape.value}")
    return Riddle(prompt=ask_for(words, rng), thought=think(f"That is {answer}. {caption(plain)}"), scene=plain)


def think(words: str) -> str:
    return f"<think>{words}</think>"
