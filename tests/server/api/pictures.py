"""Scripts and checks that tests of the Images API share."""

from __future__ import annotations

import base64
import io

from PIL import Image

from server.messages import ImageOutput, PreviewOutput, Request
from tests.server.scripted_engine import Output, finish, red_picture

NUM_STEPS = 8


def drawing(request: Request) -> list[list[Output]]:
    """Draw the pictures asked for, with their previews, at the size asked for."""
    steps: list[list[Output]] = []
    for index in range(request.image.max_images):
        for preview in range(request.image.num_previews):
            steps.append([PreviewOutput(request.request_id, index, preview, 2 * preview + 2, NUM_STEPS, red_picture(8, 16))])
        steps.append([ImageOutput(request.request_id, index, red_picture(request.image.height, request.image.width))])
    return [*steps, [finish(request)]]


def opened(encoded: str) -> Image.Image:
    """Return the picture in a base64 string."""
    return Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))
