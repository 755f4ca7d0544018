"""Stories and talk: texts that agree with their pictures, and can be read back."""

from __future__ import annotations

from random import Random

import pytest

from model.storybook.captions import caption
from model.storybook.chat import OUTSIDE_ANSWER, caption_exchange, outside_talk, question_exchange
from model.storybook.riddles import training_riddle
from model.storybook.sampling import SceneKind, is_held_out, random_scene
from model.storybook.scenes import MIDDLE, Background, Colour, Shape, Size, Thing, make_scene
from model.storybook.stories import read_story, training_story


def test_a_storys_sentences_tell_its_pictures() -> None:
    rng = Random(0)
    for _ in range(100):
        story = training_story(rng)

        assert read_story([panel.text for panel in story.panels]) == [panel.scene for panel in story.panels]
        assert 2 <= len(story.panels) <= 6


def test_the_subject_keeps_its_shape_and_no_panel_is_held_out() -> None:
    rng = Random(1)
    for _ in range(100):
        panels = training_story(rng).panels

        assert len({panel.scene.things[0].shape for panel in panels}) == 1
        assert not any(is_held_out(panel.scene) for panel in panels)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["Part one of two. Once there was a big red star in the middle by day."], "does not begin"),
        (["Part one of one. Once there was a big red cat in the middle by day."], "no story begins"),
        (["Part one of one. Once there was a big red star on the moon."], "no setting"),
        (
            [
                "Part one of two. Once there was a big red star in the middle by day.",
                "Part two of two. The big red heart turns blue.",
            ],
            "tells no change",
        ),
    ],
)
def test_a_broken_story_is_refused_with_its_cause(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_story(texts)


def test_answers_agree_with_the_scene() -> None:
    scene = make_scene([Thing(Shape.HEART, Colour.RED, Size.SMALL, MIDDLE)], Background.NIGHT)
    expected = {
        "what colour is the heart": "Red.",
        "where is the heart": "In the middle.",
        "how big is the heart": "Small.",
        "is there a red heart": "Yes.",
        "what time of day is it": "Night.",
        "how many shapes are there": "One.",
        "what is in the middle": "The red heart.",
    }

    exchanges = [question_exchange(scene, Random(seed)) for seed in range(600)]
    answers = {exchange.question.lower().rstrip("?."): exchange.answer for exchange in exchanges}

    assert {question: answers[question] for question in expected} == expected


def test_a_caption_request_is_answered_with_the_caption() -> None:
    rng = Random(0)
    scene = random_scene(rng, SceneKind.PAIR)

    assert caption_exchange(scene, rng).answer == caption(scene)


def test_what_lies_outside_the_world_gets_an_answer_from_inside() -> None:
    assert {outside_talk(Random(seed)).answer for seed in range(50)} == {OUTSIDE_ANSWER}


def test_a_thought_ends_with_the_caption_of_its_picture() -> None:
    rng = Random(0)
    for _ in range(50):
        riddle = training_riddle(rng)

        assert riddle.thought.endswith(f"{caption(riddle.scene)}</think>")
        assert not is_held_out(riddle.scene)
