"""Scenes in words: one exact caption, and prompts that say as much or as little as a person might.

What a prompt leaves out has a fixed meaning where that keeps the picture certain (no size is big, no place is the middle,
"A and B" is A on the left), and is free where a choice is harmless: the background, and the colour of a thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from model.storybook.sampling import LEFT_RIGHT, TOP_BOTTOM, SceneKind, kind_of
from model.storybook.scenes import MIDDLE, Background, Place, Scene, Size, Thing

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}

PLACE_PHRASES: dict[Place, str] = {
    Place(0, 0): "at the top left",
    Place(0, 1): "at the top",
    Place(0, 2): "at the top right",
    Place(1, 0): "on the left",
    Place(1, 1): "in the middle",
    Place(1, 2): "on the right",
    Place(2, 0): "at the bottom left",
    Place(2, 1): "at the bottom",
    Place(2, 2): "at the bottom right",
}

BACKGROUND_PHRASES: dict[Background, str] = {
    Background.DAY: "by day",
    Background.SUNSET: "at sunset",
    Background.NIGHT: "at night",
}

OPENINGS = (
    "{}",
    "{}",
    "draw {}",
    "paint {}",
    "show me {}",
    "please draw {}",
    "a picture of {}",
    "a drawing of {}",
    "can you draw {}",
    "I want {}",
)
RELATIONS = {
    LEFT_RIGHT: (("left of", "to the left of"), ("right of", "to the right of")),
    TOP_BOTTOM: (("above", "over"), ("below", "under")),
}
"""For each pair of places: words for "first ... second", and for "second ... first"."""


@dataclass(frozen=True, slots=True)
class Mention:
    """What a prompt says. A small size is always said; a place is always said unless it goes without saying."""

    big: bool = True
    colour: bool = True
    background: bool = True
    usual_place: bool = True


EVERYTHING = Mention()


def caption(scene: Scene) -> str:
    """Return the one exact caption: every fact, in a fixed order. Two scenes have the same caption only if they are equal."""
    return sentence(f"{_things_in_full(scene)} {BACKGROUND_PHRASES[scene.background]}")


def prompt(scene: Scene, rng: Random) -> str:
    """Ask for a scene the way a person might: some facts left out, one of many phrasings."""
    mention = Mention(
        big=rng.random() < 0.5,
        colour=rng.random() < 0.8,
        background=rng.random() < 0.5,
        usual_place=rng.random() < 0.3,
    )
    return ask_for(describe(scene, mention, rng), rng)


def ask_for(words: str, rng: Random) -> str:
    """Ask for something described, in one of many ways."""
    return casual(rng.choice(OPENINGS).format(words), rng)


def describe(scene: Scene, mention: Mention, rng: Random) -> str:
    """Say a scene with the facts that ``mention`` asks for, choosing among equal phrasings."""
    match kind_of(scene):
        case SceneKind.SINGLE:
            words = _describe_single(scene.things[0], mention)
        case SceneKind.PAIR:
            words = _describe_pair(scene, mention, rng)
        case SceneKind.COUNT:
            words = count_phrase(scene, mention)
    return f"{words} {BACKGROUND_PHRASES[scene.background]}" if mention.background else words


def thing_phrase(thing: Thing, mention: Mention = EVERYTHING) -> str:
    """Return e.g. "a small red star"."""
    return with_article(_adjectives(thing, mention) + thing.shape.value)


def count_phrase(scene: Scene, mention: Mention = EVERYTHING) -> str:
    """Return e.g. "three small red stars". The colour is always said, if the world has a word for it."""
    first = scene.things[0]
    size = f"{first.size.value} " if first.size is Size.SMALL or mention.big else ""
    return f"{NUMBERS[len(scene.things)]} {size}{colour_word(first)}{first.shape.value}s"


def with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def sentence(words: str) -> str:
    """Capital letter, full stop."""
    return f"{words[0].upper()}{words[1:]}."


def casual(words: str, rng: Random) -> str:
    """Write words as people type them: with or without a capital letter and a full stop."""
    words = words[0].upper() + words[1:] if rng.random() < 0.4 else words
    return f"{words}." if rng.random() < 0.4 else words


def _things_in_full(scene: Scene) -> str:
    if kind_of(scene) is SceneKind.COUNT:
        return count_phrase(scene)
    return " and ".join(_placed(thing, EVERYTHING) for thing in scene.things)


def _describe_single(thing: Thing, mention: Mention) -> str:
    goes_without_saying = thing.place == MIDDLE and not mention.usual_place
    return thing_phrase(thing, mention) if goes_without_saying else _placed(thing, mention)


def _describe_pair(scene: Scene, mention: Mention, rng: Random) -> str:
    first, second = scene.things
    if first.shape is second.shape:
        mention = Mention(mention.big, True, mention.background, mention.usual_place)
    places = (first.place, second.place)
    if places == LEFT_RIGHT and not mention.usual_place and rng.random() < 0.4:
        return f"{thing_phrase(first, mention)} and {thing_phrase(second, mention)}"
    if places in RELATIONS and rng.random() < 0.8:
        return relation_phrase(scene, mention, rng)
    return f"{_placed(first, mention)} and {_placed(second, mention)}"


def relation_phrase(scene: Scene, mention: Mention, rng: Random) -> str:
    """Say a side-by-side or stacked pair by how one stands to the other, named in either order."""
    first, second = scene.things
    forward, backward = RELATIONS[first.place, second.place]
    if rng.random() < 0.5:
        return f"{thing_phrase(first, mention)} {rng.choice(forward)} {thing_phrase(second, mention)}"
    return f"{thing_phrase(second, mention)} {rng.choice(backward)} {thing_phrase(first, mention)}"


def _placed(thing: Thing, mention: Mention) -> str:
    return f"{thing_phrase(thing, mention)} {PLACE_PHRASES[thing.place]}"


def _adjectives(thing: Thing, mention: Mention) -> str:
    size = f"{thing.size.value} " if thing.size is Size.SMALL or mention.big else ""
    return size + (colour_word(thing) if mention.colour else "")


def colour_word(thing: Thing) -> str:
    """Return the word for a thing's colour and a blank, or nothing if the world has none for it."""
    return "" if thing.tint else f"{thing.colour.value} "
