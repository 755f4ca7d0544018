"""Edits: a change to a scene, what it leads to, and how a person asks for it. What an edit does not name stays as it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from model.storybook.captions import BACKGROUND_PHRASES, PLACE_PHRASES, casual, thing_phrase
from model.storybook.sampling import random_thing
from model.storybook.scenes import PLACES, Background, Colour, Place, Scene, Shape, Size, Thing, make_scene

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Recolour:
    index: int
    colour: Colour


@dataclass(frozen=True, slots=True)
class Resize:
    index: int
    size: Size


@dataclass(frozen=True, slots=True)
class Reshape:
    index: int
    shape: Shape


@dataclass(frozen=True, slots=True)
class Move:
    index: int
    place: Place


@dataclass(frozen=True, slots=True)
class Remove:
    index: int


@dataclass(frozen=True, slots=True)
class Add:
    thing: Thing


@dataclass(frozen=True, slots=True)
class SetBackground:
    background: Background


Edit = Recolour | Resize | Reshape | Move | Remove | Add | SetBackground
"""A change; ``index`` names a thing of the scene it is applied to."""


def apply(edit: Edit, scene: Scene) -> Scene:
    """Return the scene after an edit; everything else is kept.

    Raises:
        ValueError: a moved or added thing would touch another.
    """
    things = list(scene.things)
    match edit:
        case Recolour(index, colour):
            things[index] = replace(things[index], colour=colour, tint=None)
        case Resize(index, size):
            things[index] = replace(things[index], size=size)
        case Reshape(index, shape):
            things[index] = replace(things[index], shape=shape)
        case Move(index, place):
            things[index] = things[index].at(place)
        case Remove(index):
            del things[index]
        case Add(thing):
            things.append(thing)
        case SetBackground(background):
            return replace(scene, background=background)
    return make_scene(things, scene.background, scene.wide)


def random_edit(scene: Scene, rng: Random) -> Edit:
    """Choose a change that a one- or two-thing scene can take: the result differs from it, and its things from each other."""
    while apply(edit := _any_edit(scene, rng), scene).is_count:
        pass
    return edit


def _any_edit(scene: Scene, rng: Random) -> Edit:
    index = rng.randrange(len(scene.things))
    thing = scene.things[index]
    changes: list[Edit] = [
        Recolour(index, _another(thing.colour, tuple(Colour), rng)),
        Resize(index, _another(thing.size, tuple(Size), rng)),
        Reshape(index, _another(thing.shape, tuple(Shape), rng)),
        SetBackground(_another(scene.background, tuple(Background), rng)),
    ]
    if len(scene.things) > 1:
        changes.append(Remove(index))
    else:
        changes.append(Move(index, _another(thing.place, PLACES, rng)))
        clear = [place for place in PLACES if place.is_clear_of(thing.place)]
        changes += [Add(random_thing(rng, rng.choice(clear)))] if clear else []
    return rng.choice(changes)


def instruction(edit: Edit, scene: Scene, rng: Random) -> str:
    """Ask for an edit of ``scene`` in words."""
    match edit:
        case Recolour(index, colour):
            words = f"{_one_of(('make', 'paint', 'colour'), rng)} {reference(scene, index)} {colour.value}"
        case Resize(index, size):
            words = f"make {reference(scene, index)} {size.value}"
        case Reshape(index, shape):
            words = f"{_one_of(('turn', 'change'), rng)} {reference(scene, index)} into a {shape.value}"
        case Move(index, place):
            words = f"{_one_of(('move', 'put'), rng)} {reference(scene, index)} {PLACE_PHRASES[place]}"
        case Remove(index):
            words = f"{_one_of(('remove', 'delete', 'take away'), rng)} {reference(scene, index)}"
        case Add(thing):
            words = f"{_one_of(('add', 'also draw'), rng)} {thing_phrase(thing)} {PLACE_PHRASES[thing.place]}"
        case SetBackground(background):
            words = _background_instruction(background, rng)
    return casual(words, rng)


def reference(scene: Scene, index: int) -> str:
    """Name one thing of a scene by as few words as tell it apart: "the star", "the red star", "the small red star"."""
    thing = scene.things[index]
    alike = [other for other in scene.things if other.shape is thing.shape]
    if len(alike) == 1:
        return f"the {thing.shape.value}"
    if len({other.colour for other in alike}) == len(alike):
        return f"the {thing.colour.value} {thing.shape.value}"
    return f"the {thing.size.value} {thing.colour.value} {thing.shape.value}"


def _background_instruction(background: Background, rng: Random) -> str:
    return _one_of((f"make it {background.value}", f"show it {BACKGROUND_PHRASES[background]}"), rng)


def _one_of(words: tuple[str, ...], rng: Random) -> str:
    return rng.choice(words)


def _another(current: _T, choices: tuple[_T, ...], rng: Random) -> _T:
    return rng.choice([choice for choice in choices if choice != current])
