"""The model that comes with Plait, served without naming one: what it draws and tells is read back by the judge."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from loadtests.fleet.replica import served
from loadtests.storybook.client import Answer, Client, Question
from model.storybook.chat import OUTSIDE_ANSWER
from model.storybook.judge import read
from model.storybook.sampling import is_held_out
from model.storybook.scenes import Background, Colour, Place, Scene, Shape, Size, Thing, make_scene
from model.storybook.stories import read_story
from tests.end_to_end.conftest import SMALL

TIMEOUT_S = 120.0

UNSEEN: tuple[tuple[str, Scene], ...] = (
    (
        "a big blue triangle in the middle by day",
        make_scene([Thing(Shape.TRIANGLE, Colour.BLUE, Size.BIG, Place(1, 1))], Background.DAY),
    ),
    (
        "a big purple star to the left of a big red square at night",
        make_scene(
            [Thing(Shape.STAR, Colour.PURPLE, Size.BIG, Place(1, 0)), Thing(Shape.SQUARE, Colour.RED, Size.BIG, Place(1, 2))],
            Background.NIGHT,
        ),
    ),
    (
        "three big orange circles at sunset",
        make_scene(
            [Thing(Shape.CIRCLE, Colour.ORANGE, Size.BIG, place) for place in (Place(0, 1), Place(2, 0), Place(2, 2))], Background.SUNSET
        ),
    ),
)
"""Prompts that hold combinations which training never saw, and the scenes they mean."""


def ask(url: str, *questions: Question) -> list[Answer]:
    async def ask_all() -> list[Answer]:
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as http:
            client = await Client.of_server(http, {})
            return await asyncio.gather(*(client.ask(question) for question in questions))

    return asyncio.run(ask_all())


def test_without_a_model_storybook_is_served(storybook_url: str) -> None:
    assert [model["id"] for model in httpx.get(f"{storybook_url}/v1/models").json()["data"]] == ["storybook"]


@pytest.mark.parametrize(("prompt", "scene"), UNSEEN, ids=[prompt for prompt, _ in UNSEEN])
def test_a_prompt_of_unseen_combinations_is_drawn_as_it_says(prompt: str, scene: Scene, storybook_url: str) -> None:
    (answer,) = ask(storybook_url, Question(prompt, modalities=("image",), seed=1))

    assert is_held_out(scene)
    assert read(answer.pictures[0]).shows(scene)


def test_a_story_alternates_words_and_pictures_and_ends_itself(storybook_url: str) -> None:
    (answer,) = ask(storybook_url, Question("tell a story about a small red star", seed=1))

    assert [isinstance(part, str) for part in answer.parts] == [True, False] * 3
    assert answer.finish_reason == "stop"
    told = read_story([part for part in answer.parts if isinstance(part, str)])
    assert all(read(picture).shows(scene) for picture, scene in zip(answer.pictures, told, strict=True))


def test_a_story_comes_out_the_same_beside_others(storybook_url: str) -> None:
    question = Question("tell a story about a big yellow heart in two panels", seed=3)
    (alone,) = ask(storybook_url, question)

    beside = ask(storybook_url, question, *(Question("a small green square by day", seed=seed) for seed in range(4)))[0]

    assert beside.text == alone.text
    assert [read(picture) for picture in beside.pictures] == [read(picture) for picture in alone.pictures]


def test_a_story_comes_out_the_same_without_assertions(storybook_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    question = Question("tell a story about a big yellow heart in two panels", seed=3)
    (asserted,) = ask(storybook_url, question)
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")  # as python -O, for the engine's process as well

    with served(*SMALL) as server:
        (answer,) = ask(server.url, question)

    assert answer.text == asserted.text
    assert [read(picture) for picture in answer.pictures] == [read(picture) for picture in asserted.pictures]


def test_what_its_world_does_not_hold_gets_a_friendly_answer(storybook_url: str) -> None:
    (answer,) = ask(storybook_url, Question("What is the capital of France?"))

    assert answer.text.strip() == OUTSIDE_ANSWER
    assert not answer.pictures
