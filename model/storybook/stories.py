"""Stories: one subject through two to six panels, each a sentence and a picture; and how to read a story's sentences back.

    Part one of three. Once there was a small red star in the middle at night.     -> picture
    Part two of three. The small red star turns blue.                              -> picture
    Part three of three. The small blue star goes to the top left.                 -> picture

Every sentence says how far the story has come, so that a small model knows when to end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from model.storybook.captions import BACKGROUND_PHRASES, NUMBERS, PLACE_PHRASES, Mention, casual, thing_phrase, with_article
from model.storybook.edits import Edit, Move, Recolour, Resize, SetBackground, apply
from model.storybook.sampling import HELD_OUT_PAIRS, is_held_out, is_story_held_out, random_thing
from model.storybook.scenes import MIDDLE, PLACES, Background, Colour, Scene, Shape, Size, Thing, make_scene

USUAL_PANELS = 3
"""Panels of a story whose prompt names no number."""

REQUESTS = (
    "tell a story about {}",
    "tell me a story about {}",
    "a story about {}",
    "write a story about {}",
)
COUNTED_REQUESTS = (
    "tell a story about {} in {} panels",
    "tell me a story about {} in {} pictures",
    "a story about {} in {} parts",
    "a story in {1} panels about {0}",
)
TURNS = {
    Background.DAY: "Day breaks for",
    Background.SUNSET: "The sun sets behind",
    Background.NIGHT: "Night falls over",
}
GROWTH = {Size.BIG: "grows big", Size.SMALL: "becomes small"}
DESTINATIONS = {place: re.sub(r"^(at|on|in)", "to", phrase) for place, phrase in PLACE_PHRASES.items()}


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a story and its words."""

    text: str
    scene: Scene


@dataclass(frozen=True, slots=True)
class Story:
    prompt: str
    panels: tuple[Panel, ...]


def training_story(rng: Random, wide: bool = False) -> Story:
    """Draw a story in which no panel, nor the subject with its number of panels, is held out."""
    while True:
        subject, num_panels = random_thing(rng, MIDDLE), rng.choice((2, 3, 3, 3, 4, 4, 5, 6))
        if is_story_held_out(subject, num_panels) or (subject.shape, subject.colour) in HELD_OUT_PAIRS:
            continue
        return Story(prompt=request(subject, num_panels, rng), panels=_plot(subject, num_panels, rng, wide))


def request(subject: Thing, num_panels: int, rng: Random) -> str:
    """Ask for a story; the usual number of panels may go unsaid."""
    mention = Mention(big=rng.random() < 0.6, colour=rng.random() < 0.9)
    words = thing_phrase(subject, mention)
    if num_panels == USUAL_PANELS and rng.random() < 0.5:
        return casual(rng.choice(REQUESTS).format(words), rng)
    return casual(rng.choice(COUNTED_REQUESTS).format(words, NUMBERS[num_panels]), rng)


def _plot(subject: Thing, num_panels: int, rng: Random, wide: bool) -> tuple[Panel, ...]:
    scene = make_scene([subject.at(rng.choice(PLACES))], rng.choice(tuple(Background)), wide)
    while is_held_out(scene):
        scene = make_scene([subject.at(rng.choice(PLACES))], rng.choice(tuple(Background)), wide)
    panels = [Panel(text=f"{_part(1, num_panels)} {_beginning(scene)}", scene=scene)]
    told: set[type[Edit]] = set()
    for number in range(2, num_panels + 1):
        change = _random_change(scene, told, rng)
        told.add(type(change))
        text = f"{_part(number, num_panels)} {_sentence(change, scene)}"
        scene = apply(change, scene)
        panels.append(Panel(text=text, scene=scene))
    return tuple(panels)


def _random_change(scene: Scene, told: set[type[Edit]], rng: Random) -> Edit:
    """Choose a change to a scene that is not held out, of a kind that was not told before if there is one: no story goes back and forth."""
    possible = [change for change in _changes(scene) if not is_held_out(apply(change, scene))]
    fresh = [change for change in possible if type(change) not in told] or possible
    kind = rng.choice(sorted({type(change) for change in fresh}, key=lambda kind: kind.__name__))
    return rng.choice([change for change in fresh if type(change) is kind])


def _changes(scene: Scene) -> list[Edit]:
    """Return every change that a story may make to its one thing or the time of day."""
    thing = scene.things[0]
    return [
        *(Recolour(0, colour) for colour in Colour if colour is not thing.colour),
        Resize(0, Size.SMALL if thing.size is Size.BIG else Size.BIG),
        *(Move(0, place) for place in PLACES if place != thing.place),
        *(SetBackground(background) for background in Background if background is not scene.background),
    ]


def _part(number: int, num_panels: int) -> str:
    return f"Part {NUMBERS[number]} of {NUMBERS[num_panels]}."


def _beginning(scene: Scene) -> str:
    thing = scene.things[0]
    return f"Once there was {thing_phrase(thing)} {PLACE_PHRASES[thing.place]} {BACKGROUND_PHRASES[scene.background]}."


def _sentence(change: Edit, scene: Scene) -> str:
    """Tell a change of the scene's one thing."""
    name = _name(scene.things[0])
    match change:
        case Recolour(_, colour):
            return f"The {name} turns {colour.value}."
        case Resize(_, size):
            return f"The {name} {GROWTH[size]}."
        case Move(_, place):
            return f"The {name} goes {DESTINATIONS[place]}."
        case SetBackground(background):
            return f"{TURNS[background]} the {name}."
        case _:
            raise ValueError(f"a story has no words for {change}")


def _name(thing: Thing) -> str:
    return f"{thing.size.value} {thing.colour.value} {thing.shape.value}"


def read_story(texts: list[str]) -> list[Scene]:
    """Return the scene that each sentence of a story leads to.

    Raises:
        ValueError: a sentence is not of this world, its part number is wrong, or its subject is not the one told of before.
    """
    scenes: list[Scene] = []
    for number, text in enumerate(texts, start=1):
        told = text.strip()
        opening = _part(number, len(texts))
        if not told.startswith(opening):
            raise ValueError(f"panel {number} does not begin with {opening!r}: {told!r}")
        words = told[len(opening) :].strip()
        scenes.append(_read_beginning(words) if number == 1 else apply(_read_change(words, scenes[-1]), scenes[-1]))
    return scenes


def _read_beginning(words: str) -> Scene:
    for shape in Shape:
        for colour in Colour:
            for size in Size:
                article = with_article(f"{size.value} {colour.value} {shape.value}")
                if not words.startswith(f"Once there was {article} "):
                    continue
                return _read_setting(words.removeprefix(f"Once there was {article} "), Thing(shape, colour, size, MIDDLE))
    raise ValueError(f"no story begins with {words!r}")


def _read_setting(words: str, subject: Thing) -> Scene:
    for place in PLACES:
        for background in Background:
            if words == f"{PLACE_PHRASES[place]} {BACKGROUND_PHRASES[background]}.":
                return make_scene([subject.at(place)], background)
    raise ValueError(f"no setting is called {words!r}")


def _read_change(words: str, scene: Scene) -> Edit:
    """Find the change whose sentence this is, among all that the scene can take."""
    changes: list[Edit] = [
        *(Recolour(0, colour) for colour in Colour),
        *(Resize(0, size) for size in Size),
        *(Move(0, place) for place in PLACES),
        *(SetBackground(background) for background in Background),
    ]
    for change in changes:
        if words == _sentence(change, scene):
            return change
    raise ValueError(f"{words!r} tells no change of the {_name(scene.things[0])}")
