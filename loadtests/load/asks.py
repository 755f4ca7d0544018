"""What the load tests ask: bodies of chat completions for each scenario, drawn from a seed so that two servers get the same work.

Prompts of one session begin alike, as those of real chats do: a prefix cache and a router by prefix have something to find.
"""

from __future__ import annotations

import base64
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

Json = dict[str, object]

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star", "heart")
PLACES = ("on the left", "on the right", "at the top", "at the bottom", "in the middle")
RGB = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (40, 80, 220),
    "yellow": (240, 210, 50),
    "purple": (140, 60, 180),
    "orange": (240, 140, 40),
}
PICTURE_SIDE = 64


class Scenario(Enum):
    """What a user of the service does."""

    CHAT = "chat"
    TEXT_TO_IMAGE = "text-to-image"
    EDIT = "edit"
    STORY = "story"


@dataclass(frozen=True, slots=True)
class Effort:
    """How much each request asks for: steps of a picture, words of a text, pictures of a story."""

    num_steps: int = 12
    max_words: int = 48
    num_pictures: int = 2


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``prefix_key`` is equal for requests that begin alike."""

    scenario: Scenario
    body: Json
    prefix_key: str


class AskSource:
    """Draws asks; equal seeds give equal asks."""

    def __init__(self, model: str, seed: int, effort: Effort) -> None:
        self._model = model
        self._effort = effort
        self._random = random.Random(seed)
        self._makers: dict[Scenario, Callable[[], Ask]] = {
            Scenario.CHAT: self._chat,
            Scenario.TEXT_TO_IMAGE: self._text_to_image,
            Scenario.EDIT: self._edit,
            Scenario.STORY: self._story,
        }

    def draw(self, scenario: Scenario) -> Ask:
        """Return the next ask of a scenario."""
        return self._makers[scenario]()

    def _chat(self) -> Ask:
        session = self._random.randrange(8)
        system = f"You are storyteller number {session}. " + "Speak of shapes and colours in short sentences. " * 12
        messages = [_message("system", system), _message("user", f"Tell me of {self._thing()}.")]
        return self._ask(Scenario.CHAT, messages, ["text"], f"teller-{session}")

    def _text_to_image(self) -> Ask:
        return self._ask(Scenario.TEXT_TO_IMAGE, [_message("user", f"Draw {self._thing()}.")], ["image"], "draw")

    def _edit(self) -> Ask:
        colour = self._random.choice(COLOURS)
        picture = {"type": "image_url", "image_url": {"url": plain_picture(colour)}}
        words = {"type": "text", "text": f"Make it {self._random.choice(COLOURS)}."}
        return self._ask(Scenario.EDIT, [{"role": "user", "content": [picture, words]}], ["image"], f"edit-{colour}")

    def _story(self) -> Ask:
        messages = [_message("user", f"Tell the story of {self._thing()}, with pictures.")]
        return self._ask(Scenario.STORY, messages, ["text", "image"], "story")

    def _ask(self, scenario: Scenario, messages: list[Json], modalities: list[str], prefix_key: str) -> Ask:
        pictures = self._effort.num_pictures if scenario is Scenario.STORY else 1
        image = {"num_inference_steps": self._effort.num_steps, "max_images": pictures, "seed": self._random.randrange(1 << 30)}
        body: Json = {
            "model": self._model,
            "messages": messages,
            "modalities": modalities,
            "max_completion_tokens": self._effort.max_words,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if "image" in modalities:
            body["image"] = image
        return Ask(scenario, body, prefix_key)

    def _thing(self) -> str:
        return f"a {self._random.choice(COLOURS)} {self._random.choice(SHAPES)} {self._random.choice(PLACES)}"


def _message(role: str, content: str) -> Json:
    return {"role": role, "content": content}


def plain_picture(colour: str) -> str:
    """Return a small PNG of one colour as a data URI."""
    row = b"\0" + bytes(RGB[colour]) * PICTURE_SIDE
    header = struct.pack(">IIBBBBB", PICTURE_SIDE, PICTURE_SIDE, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(row * PICTURE_SIDE)) + _chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
