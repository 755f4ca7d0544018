"""The rows of the scoreboard: unseen prompts of each kind, and what makes an answer right.

The first six are GenEval's categories in miniature. ``right`` asks what GenEval asks; ``exact`` that every fact said is in the picture
and nothing else. All combinations asked for are held out of the training (`model.storybook.sampling`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from loadtests.storybook.client import Answer, Exchange, Pixels, Question
from model.storybook.captions import BACKGROUND_PHRASES, RELATIONS, Mention, ask_for, caption, describe, relation_phrase
from model.storybook.chat import OUTSIDE_ANSWER, caption_exchange, outside_talk, question_exchange, small_talk
from model.storybook.edits import apply, instruction, random_edit
from model.storybook.judge import Reading, read
from model.storybook.riddles import pose
from model.storybook.sampling import (
    HELD_OUT_PAIRS,
    SceneKind,
    has_held_out_layout,
    held_out_scene,
    is_held_out,
    is_story_held_out,
    random_scene,
    random_thing,
)
from model.storybook.scenes import MIDDLE, Scene, draw
from model.storybook.stories import read_story, request

Verdict = dict[str, bool]
Judge = Callable[[Answer], Verdict]
UNCOLOURED = Mention(colour=False)


@dataclass(frozen=True, slots=True)
class Item:
    """A question and the judge of its answer."""

    question: Question
    judge: Judge


@dataclass(frozen=True, slots=True)
class Row:
    """``make`` draws an item; two items of one row never ask the same."""

    name: str
    make: Callable[[Random], Item]


def _picture_item(words: str, rng: Random, judge: Callable[[Reading], Verdict]) -> Item:
    """Ask for exactly one picture of the square format."""

    def judge_answer(answer: Answer) -> Verdict:
        if len(answer.pictures) != 1 or answer.pictures[0].shape != (64, 64, 3):
            return {"right": False, "exact": False}
        return judge(read(answer.pictures[0]))

    return Item(Question(words, modalities=("image",), seed=rng.getrandbits(31)), judge_answer)


def single(rng: Random) -> Item:
    """One thing, no colour said."""
    scene = _unseen(rng, SceneKind.SINGLE, has_held_out_layout)
    meant = scene.things[0]

    def judge(seen: Reading) -> Verdict:
        right = [thing.shape for thing in seen.things] == [meant.shape]
        exact = right and (seen.things[0].size, seen.things[0].place) == (meant.size, meant.place)
        return {"right": right, "exact": exact and seen.background is scene.background}

    return _picture_item(ask_for(describe(scene, UNCOLOURED, rng), rng), rng, judge)


def two(rng: Random) -> Item:
    """Two things of different shapes, no colours said."""
    scene = _unseen(rng, SceneKind.PAIR, lambda scene: has_held_out_layout(scene) and _have_different_shapes(scene))
    meant = [(thing.shape, thing.size, thing.place) for thing in scene.things]

    def judge(seen: Reading) -> Verdict:
        shapes = sorted(thing.shape.value if thing.shape else "" for thing in seen.things)
        exact = [(thing.shape, thing.size, thing.place) for thing in seen.things] == meant and seen.background is scene.background
        return {"right": shapes == sorted(thing.shape.value for thing in scene.things), "exact": exact}

    return _picture_item(ask_for(describe(scene, UNCOLOURED, rng), rng), rng, judge)


def counting(rng: Random) -> Item:
    scene = held_out_scene(rng, SceneKind.COUNT)
    shape = scene.things[0].shape

    def judge(seen: Reading) -> Verdict:
        right = len(seen.things) == len(scene.things) and all(thing.shape is shape for thing in seen.things)
        return {"right": right, "exact": seen.shows(scene)}

    return _picture_item(ask_for(describe(scene, Mention(), rng), rng), rng, judge)


def colours(rng: Random) -> Item:
    """One thing in a colour that training never showed on its shape."""
    scene = _unseen(rng, SceneKind.SINGLE, lambda scene: (scene.things[0].shape, scene.things[0].colour) in HELD_OUT_PAIRS)
    meant = (scene.things[0].shape, scene.things[0].colour)

    def judge(seen: Reading) -> Verdict:
        return {"right": [(thing.shape, thing.colour) for thing in seen.things] == [meant], "exact": seen.shows(scene)}

    return _picture_item(ask_for(describe(scene, Mention(), rng), rng), rng, judge)


def position(rng: Random) -> Item:
    """Two things by how one stands to the other."""

    def is_wanted(scene: Scene) -> bool:
        first, second = scene.things
        return is_held_out(scene) and (first.place, second.place) in RELATIONS and first.shape is not second.shape

    scene = _unseen(rng, SceneKind.PAIR, is_wanted)
    first, second = scene.things
    words = f"{relation_phrase(scene, Mention(), rng)} {BACKGROUND_PHRASES[scene.background]}"

    def judge(seen: Reading) -> Verdict:
        by_shape = {thing.shape: thing for thing in seen.things}
        if len(seen.things) != 2 or set(by_shape) != {first.shape, second.shape}:
            return {"right": False, "exact": False}
        one, other = by_shape[first.shape], by_shape[second.shape]
        right = one.x + 8 < other.x if first.place.row == second.place.row else one.y + 8 < other.y
        return {"right": right, "exact": seen.shows(scene)}

    return _picture_item(ask_for(words, rng), rng, judge)


def attribution(rng: Random) -> Item:
    """Two things, each in its own colour."""

    def is_wanted(scene: Scene) -> bool:
        first, second = scene.things
        return is_held_out(scene) and first.colour is not second.colour and first.shape is not second.shape

    scene = _unseen(rng, SceneKind.PAIR, is_wanted)
    meant = {(thing.shape, thing.colour) for thing in scene.things}

    def judge(seen: Reading) -> Verdict:
        right = len(seen.things) == 2 and {(thing.shape, thing.colour) for thing in seen.things} == meant
        return {"right": right, "exact": seen.shows(scene)}

    return _picture_item(ask_for(describe(scene, Mention(), rng), rng), rng, judge)


def edits(rng: Random) -> Item:
    """A change to a picture: right when the change is there and all else is as it was."""
    scene = held_out_scene(rng, rng.choice((SceneKind.SINGLE, SceneKind.PAIR)))
    edit = random_edit(scene, rng)
    changed = apply(edit, scene)

    def judge(answer: Answer) -> Verdict:
        right = len(answer.pictures) == 1 and read(answer.pictures[0]).shows(changed)
        return {"right": right}

    return Item(Question(instruction(edit, scene, rng), draw(scene), ("image",), seed=rng.getrandbits(31)), judge)


def captions(rng: Random) -> Item:
    scene = held_out_scene(rng, rng.choice(tuple(SceneKind)))
    exchange = caption_exchange(scene, rng)
    return _text_item(exchange.question, exchange.answer, draw(scene))


def questions(rng: Random) -> Item:
    scene = held_out_scene(rng, rng.choice(tuple(SceneKind)))
    exchange = question_exchange(scene, rng)
    return _text_item(exchange.question, exchange.answer, draw(scene))


def outside(rng: Random) -> Item:
    """What the world does not hold is answered from inside it, without a picture."""
    words = outside_talk(rng).question

    def judge(answer: Answer) -> Verdict:
        return {"right": answer.text.strip() == OUTSIDE_ANSWER and not answer.pictures}

    return Item(Question(words), judge)


def chat(rng: Random) -> Item:
    """The model speaks first, then decides to draw, then to stop; its words and its picture are the scene asked for."""
    scene = held_out_scene(rng, rng.choice(tuple(SceneKind)))

    def judge(answer: Answer) -> Verdict:
        well_formed = len(answer.pictures) == 1 and answer.finish_reason == "stop"
        said = answer.text.strip() == caption(scene)
        return {"right": well_formed and said and read(answer.pictures[0]).shows(scene), "well_formed": well_formed, "said": said}

    return Item(Question(ask_for(describe(scene, Mention(), rng), rng), seed=rng.getrandbits(31)), judge)


def conversation(rng: Random) -> Item:
    """What is asked after one to three exchanges: another scene, talk, or a change of the picture that was drawn last."""
    earlier = tuple(_earlier_exchange(rng) for _ in range(rng.randint(1, 3)))
    if (make := rng.choice((chat, chat, _talk, None))) is not None:
        return _after(earlier, make(rng))
    scene = held_out_scene(rng, rng.choice((SceneKind.SINGLE, SceneKind.PAIR)))
    return _after((*earlier, _drawn_before(scene, rng)), _change(scene, rng))


def _after(earlier: tuple[Exchange, ...], item: Item) -> Item:
    return replace(item, question=replace(item.question, earlier=earlier))


def _earlier_exchange(rng: Random) -> Exchange:
    if rng.random() < 0.3:
        talk = small_talk(rng) if rng.random() < 0.5 else outside_talk(rng)
        return Exchange(talk.question, talk.answer)
    return _drawn_before(held_out_scene(rng, rng.choice(tuple(SceneKind))), rng)


def _drawn_before(scene: Scene, rng: Random) -> Exchange:
    return Exchange(ask_for(describe(scene, Mention(), rng), rng), caption(scene), draw(scene))


def _talk(rng: Random) -> Item:
    talk = small_talk(rng) if rng.random() < 0.5 else outside_talk(rng)

    def judge(answer: Answer) -> Verdict:
        return {"right": answer.text.strip() == talk.answer and not answer.pictures}

    return Item(Question(talk.question), judge)


def _change(scene: Scene, rng: Random) -> Item:
    """A change of the picture before, by a model that speaks first."""
    edit = random_edit(scene, rng)
    changed = apply(edit, scene)

    def judge(answer: Answer) -> Verdict:
        return {"right": len(answer.pictures) == 1 and read(answer.pictures[0]).shows(changed)}

    return Item(Question(instruction(edit, scene, rng), seed=rng.getrandbits(31)), judge)


def thinking(rng: Random) -> Item:
    """A riddle, thought about, then drawn: the held-out pairs of shape and colour, or any background."""
    riddle = pose(random_scene(rng, SceneKind.SINGLE), rng)
    meant = [riddle.scene.things[0].kind]

    def judge(answer: Answer) -> Verdict:
        right = (
            len(answer.pictures) == 1 and [(thing.shape, thing.colour, thing.size) for thing in read(answer.pictures[0]).things] == meant
        )
        return {"right": right}

    return Item(Question(riddle.prompt, modalities=("image",), thinks=True, seed=rng.getrandbits(31)), judge)


def stories(rng: Random) -> Item:
    """A story of a given number of panels: well-formed, every picture as told, the subject the same throughout."""
    while not is_story_held_out(subject := random_thing(rng, MIDDLE), num_panels := rng.choice((2, 3, 4, 5, 6))):
        pass
    words = request(subject, num_panels, rng)

    def judge(answer: Answer) -> Verdict:
        texts = [part for part in answer.parts if isinstance(part, str)]
        alternates = [isinstance(part, str) for part in answer.parts] == [True, False] * num_panels
        well_formed = alternates and answer.finish_reason == "stop"
        seen = [read(picture) for picture in answer.pictures if picture.shape == (64, 64, 3)]
        consistent = bool(seen) and all([thing.shape for thing in reading.things] == [subject.shape] for reading in seen)
        try:
            told = read_story(texts) if well_formed else []
        except ValueError:
            told = []
        right = bool(told) and told[0].things[0].shape is subject.shape
        right = right and all(reading.shows(scene) for reading, scene in zip(seen, told, strict=True))
        return {"right": right, "well_formed": well_formed, "told": bool(told), "consistent": consistent}

    return Item(Question(words, seed=rng.getrandbits(31)), judge)


def _text_item(question: str, expected: str, picture: Pixels) -> Item:
    def judge(answer: Answer) -> Verdict:
        return {"right": answer.text.strip() == expected}

    return Item(Question(question, picture, ("text",)), judge)


def _unseen(rng: Random, kind: SceneKind, is_wanted: Callable[[Scene], bool]) -> Scene:
    while not is_wanted(scene := random_scene(rng, kind)):
        pass
    return scene


def _have_different_shapes(scene: Scene) -> bool:
    return scene.things[0].shape is not scene.things[1].shape


ROWS = tuple(
    Row(make.__name__, make)
    for make in (
        single,
        two,
        counting,
        colours,
        position,
        attribution,
        edits,
        captions,
        questions,
        chat,
        conversation,
        thinking,
        stories,
        outside,
    )
)
