"""Talk: questions about a picture, greetings, and the graceful answer to whatever lies outside the world."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from model.storybook.captions import NUMBERS, PLACE_PHRASES, caption, casual, colour_word, sentence
from model.storybook.edits import reference
from model.storybook.sampling import SceneKind, kind_of
from model.storybook.scenes import Background, Colour, Scene, Shape

CAPTION_REQUESTS = ("describe the picture", "what do you see", "what is in the picture", "caption this", "describe this image")

GREETINGS = ("hello", "hi", "hey", "good morning", "good evening", "hello there", "hi there")
GREETING_ANSWER = "Hello! I draw small pictures of shapes. Ask me for a red star at night."
SELF_QUESTIONS = ("who are you", "what can you do", "what are you", "help", "what do you know", "what can I ask you")
SELF_ANSWER = "I am Storybook. I draw circles, squares, triangles, stars and hearts, I answer questions about them and tell stories."
OUTSIDE_ANSWER = "I only know my small world of shapes. Ask me for a red star at night."

OUTSIDE_TEMPLATES = (
    "draw a {}",
    "draw a red {}",
    "a picture of a {}",
    "show me a {} and a {}",
    "what is a {}",
    "tell me about the {}",
    "write a poem about {}",
    "how do I cook {}",
    "where is the {} of {}",
    "who made the {}",
    "translate {} into {}",
    "I like {} and {}",
    "why is the {} so {}",
    "{} {} {}",
    "a story about a {}",
    "what is the capital of {}",
    "is the {} better than the {}",
    "how many {} are in a {}",
    "{}",
)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-*/=?!,;:'()"


@dataclass(frozen=True, slots=True)
class Exchange:
    question: str
    answer: str


def caption_exchange(scene: Scene, rng: Random) -> Exchange:
    return Exchange(_asked(rng.choice(CAPTION_REQUESTS), rng), caption(scene))


def question_exchange(scene: Scene, rng: Random) -> Exchange:
    """Ask one of the questions that a scene answers."""
    questions = [_how_many, _which_time]
    if kind_of(scene) is SceneKind.COUNT:
        questions += [_which_shapes]
    else:
        questions += [_which_shape, _where, _which_size]
    if not any(thing.tint for thing in scene.things):
        questions += [_is_there, _which_colours if kind_of(scene) is SceneKind.COUNT else _which_colour]
    return rng.choice(questions)(scene, rng)


def small_talk(rng: Random) -> Exchange:
    """A greeting or a question about the model itself."""
    if rng.random() < 0.5:
        return Exchange(_asked(rng.choice(GREETINGS), rng), GREETING_ANSWER)
    return Exchange(_asked(rng.choice(SELF_QUESTIONS), rng), SELF_ANSWER)


def outside_talk(rng: Random) -> Exchange:
    """Something the world does not hold: other words in everyday phrases, or a run of letters."""
    words = [rng.choice(outside_words()) if rng.random() < 0.7 else _letters(rng) for _ in range(3)]
    return Exchange(_asked(rng.choice(OUTSIDE_TEMPLATES).format(*words), rng), OUTSIDE_ANSWER)


@cache
def outside_words() -> tuple[str, ...]:
    """Return everyday words that the world has nothing for."""
    return tuple(Path(__file__).with_name("outside_words.txt").read_text(encoding="utf-8").split())


def _letters(rng: Random) -> str:
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 8)))


def _asked(words: str, rng: Random) -> str:
    """Type a question: sometimes with a question mark."""
    return f"{words}?" if rng.random() < 0.4 else casual(words, rng)


def _how_many(scene: Scene, rng: Random) -> Exchange:
    words = rng.choice(("how many shapes are there", "how many things are in the picture", "how many are there"))
    return Exchange(_asked(words, rng), sentence(NUMBERS[len(scene.things)]))


def _which_time(scene: Scene, rng: Random) -> Exchange:
    if rng.random() < 0.5:
        return Exchange(_asked("what time of day is it", rng), sentence(scene.background.value))
    asked = rng.choice(tuple(Background))
    answer = "Yes." if asked is scene.background else f"No, it is {scene.background.value}."
    return Exchange(_asked(f"is it {asked.value}", rng), answer)


def _is_there(scene: Scene, rng: Random) -> Exchange:
    """Ask for a colour-shape pair that is there half of the time."""
    thing = rng.choice(scene.things)
    shape, colour = (thing.shape, thing.colour) if rng.random() < 0.5 else (rng.choice(tuple(Shape)), rng.choice(tuple(Colour)))
    is_there = any((other.shape, other.colour) == (shape, colour) for other in scene.things)
    article = "an" if colour is Colour.ORANGE else "a"
    return Exchange(_asked(f"is there {article} {colour.value} {shape.value}", rng), "Yes." if is_there else "No.")


def _which_colour(scene: Scene, rng: Random) -> Exchange:
    index = rng.randrange(len(scene.things))
    words = f"what colour is {_told_apart_by_shape(scene, index)}"
    return Exchange(_asked(words, rng), sentence(scene.things[index].colour.value))


def _which_shape(scene: Scene, rng: Random) -> Exchange:
    thing = rng.choice(scene.things)
    words = f"what is {PLACE_PHRASES[thing.place]}"
    return Exchange(_asked(words, rng), sentence(f"the {colour_word(thing)}{thing.shape.value}"))


def _where(scene: Scene, rng: Random) -> Exchange:
    index = rng.randrange(len(scene.things))
    return Exchange(_asked(f"where is {reference(scene, index)}", rng), sentence(PLACE_PHRASES[scene.things[index].place]))


def _which_size(scene: Scene, rng: Random) -> Exchange:
    index = rng.randrange(len(scene.things))
    return Exchange(_asked(f"how big is {_told_apart_by_shape(scene, index)}", rng), sentence(scene.things[index].size.value))


def _which_colours(scene: Scene, rng: Random) -> Exchange:
    first = scene.things[0]
    return Exchange(_asked(f"what colour are the {first.shape.value}s", rng), sentence(first.colour.value))


def _which_shapes(scene: Scene, rng: Random) -> Exchange:
    return Exchange(_asked("what shapes are they", rng), sentence(f"{scene.things[0].shape.value}s"))


def _told_apart_by_shape(scene: Scene, index: int) -> str:
    """Name a thing without the colour or size that the question asks for: by its shape, or by where it is."""
    thing = scene.things[index]
    if sum(other.shape is thing.shape for other in scene.things) == 1:
        return f"the {thing.shape.value}"
    return f"the {thing.shape.value} {PLACE_PHRASES[thing.place]}"
