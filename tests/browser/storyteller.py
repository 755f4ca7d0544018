"""An engine's script for the page: tells a story of drawn scenes with previews, or draws one scene where a picture is asked for.

Words and pictures come from the storybook's own world, drawn by program, so that what the page shows is what a real answer looks like.
"""

from __future__ import annotations

import numpy as np

from model.storybook.scenes import MIDDLE, Background, Colour, Pixels, Place, Shape, Size, Thing, draw, make_scene
from server.messages import (
    FinishedOutput,
    FinishReason,
    ImageOutput,
    OutputMode,
    Picture,
    PreviewOutput,
    ProgressOutput,
    Request,
    TextClosed,
    Usage,
)
from tests.server.api.chats import tokens
from tests.server.scripted_engine import Output

NUM_STEPS = 12
PREVIEW_STEPS = (3, 6, 9)

PANELS = (
    (
        "Part one of three. Once there was a small red star in the middle at night.",
        draw(make_scene([Thing(Shape.STAR, Colour.RED, Size.SMALL, MIDDLE)], Background.NIGHT)),
    ),
    (
        "Part two of three. Day breaks for the small red star, and it goes to the top left.",
        draw(make_scene([Thing(Shape.STAR, Colour.RED, Size.SMALL, Place(0, 0))], Background.DAY)),
    ),
    (
        "Part three of three. The star grows big and turns yellow.",
        draw(make_scene([Thing(Shape.STAR, Colour.YELLOW, Size.BIG, MIDDLE)], Background.SUNSET)),
    ),
)
EDITED = draw(make_scene([Thing(Shape.STAR, Colour.BLUE, Size.BIG, MIDDLE)], Background.NIGHT))


def tell(request: Request) -> list[list[Output]]:
    """Return the steps of an answer: one picture where only that is asked for, else the story."""
    if request.mode is OutputMode.IMAGE:
        return [*_drawn(request, 0, EDITED), [_end(request, 1)]]
    return [*_panel(request, 0), *_panel(request, 1), *_panel(request, 2), [_end(request, len(PANELS))]]


def tell_with_a_pause(request: Request) -> list[list[Output]]:
    """The story, which stops while its second picture is half drawn, until the engine is released."""
    second = _panel(request, 1)
    middle = len(second) - 1 - NUM_STEPS // 2
    return [*_panel(request, 0), *second[:middle], [], *second[middle:], *_panel(request, 2), [_end(request, len(PANELS))]]


def _panel(request: Request, index: int) -> list[list[Output]]:
    words, scene = PANELS[index]
    return [*tokens(request, words), [TextClosed(request.request_id)], *_drawn(request, index, scene)]


def _drawn(request: Request, index: int, scene: Pixels) -> list[list[Output]]:
    steps: list[list[Output]] = []
    for step in range(1, NUM_STEPS + 1):
        outputs: list[Output] = [ProgressOutput(request.request_id, index, step, NUM_STEPS)]
        if step in PREVIEW_STEPS:
            rough = _picture(_noisy(scene, step / NUM_STEPS))
            outputs.append(PreviewOutput(request.request_id, index, PREVIEW_STEPS.index(step), step, NUM_STEPS, rough))
        steps.append(outputs)
    return [*steps, [ImageOutput(request.request_id, index, _picture(scene))]]


def _noisy(scene: Pixels, share: float) -> Pixels:
    noise = np.random.default_rng(0).uniform(0, 255, scene.shape)
    return np.rint(share * scene + (1 - share) * noise).astype(np.uint8)


def _picture(pixels: Pixels) -> Picture:
    return Picture(pixels.shape[0], pixels.shape[1], pixels.tobytes())


def _end(request: Request, num_images: int) -> FinishedOutput:
    return FinishedOutput(request.request_id, FinishReason.STOP, Usage(9, 0, 60, 0, num_images))
