"""A contact sheet for the README: 24 pictures and two stories from a running server, one small PNG.

``python -m loadtests.storybook.sheet --url http://127.0.0.1:8000 --out sheet.png``
"""

from __future__ import annotations

import argparse
import asyncio
from random import Random

import numpy as np
from PIL import Image

from loadtests.storybook.client import Client, Pixels, Question, open_http
from model.storybook.captions import Mention, describe
from model.storybook.sampling import SceneKind, held_out_scene

COLUMNS = 12
FRAME = 1
SCALE = 2
STORY_PROMPTS = ("tell a story about a small red star in six panels", "tell a story about a big blue heart in six panels")


async def make_sheet(url: str, seed: int) -> Pixels:
    """Ask for the pictures and lay them out: two rows of twelve, then one row with both stories."""
    rng = Random(seed)
    scenes = [held_out_scene(rng, tuple(SceneKind)[index % 3]) for index in range(2 * COLUMNS)]
    async with open_http(url) as http:
        client = await Client.of_server(http, {})
        questions = [Question(describe(scene, Mention(), rng), modalities=("image",), seed=seed + n) for n, scene in enumerate(scenes)]
        answers = await asyncio.gather(*(client.ask(question) for question in questions))
        stories = [await client.ask(Question(prompt, seed=seed)) for prompt in STORY_PROMPTS]
    pictures = [answer.pictures[0] for answer in answers]
    told = [picture for story in stories for picture in _filled(story.pictures)]
    rows = (pictures[:COLUMNS], pictures[COLUMNS:], told)
    return np.concatenate([np.concatenate([_framed(picture) for picture in row], axis=1) for row in rows])


def _framed(picture: Pixels) -> Pixels:
    """Put a thin white frame around a picture."""
    return np.pad(picture, ((FRAME, FRAME), (FRAME, FRAME), (0, 0)), constant_values=255)


def _filled(panels: list[Pixels]) -> list[Pixels]:
    """Cut or fill a story to half a row."""
    blank = np.full((64, 64, 3), 255, dtype=np.uint8)
    return [*panels, *[blank] * (COLUMNS // 2)][: COLUMNS // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--out", default="sheet.png")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sheet = Image.fromarray(asyncio.run(make_sheet(options.url, options.seed)))
    sheet.resize((sheet.width * SCALE, sheet.height * SCALE), Image.Resampling.NEAREST).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
