"""``plait image``: pictures from words, or a change to a picture, into files."""

from __future__ import annotations

import argparse
import base64
import sys
from pathlib import Path

from server.cli.command import Command, ExitStatus, Refused
from server.cli.connection import Connection, add_connection_options, connected
from server.cli.progress import Progress
from server.cli.saved_pictures import make_directory, save
from server.cli.talk import data_uri

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
NUM_PREVIEWS = 3

LESSON = """\
Draw pictures from words, or change one, and save them. Uses the Images API, so any OpenAI-compatible server will do.

examples:
  plait image "a blue heart at sunset"                          plait-1.png, from the model that comes with Plait
  plait image "a lighthouse, watercolour" -n 4 --out gallery    gallery/plait-1.png to plait-4.png
  plait image "make the star yellow" --edit star.png
  plait image "a red circle" --size 96x64 --format webp --seed 7
  plait image "a harbour" --url http://gpu-box:8000 --whole     for servers that do not stream pictures

The path of each picture goes to standard output, progress to standard error: a bar on a terminal, JSON lines otherwise.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("prompt", help="what to draw, or what to change")
    parser.add_argument("--edit", metavar="FILE", type=Path, action="append", default=[], help="a picture to change; may be repeated")
    parser.add_argument("-n", "--number", type=int, default=1, help="how many pictures (default: 1)")
    parser.add_argument("--size", metavar="WxH", help="size in pixels; default: the model's own")
    parser.add_argument("--quality", help="low, medium or high: fewer or more denoise steps")
    parser.add_argument("--steps", type=int, help="denoise steps, where quality is too coarse")
    parser.add_argument("--step-cache", metavar="N", type=int, help="compute every N-th step alone: faster, less exact")
    parser.add_argument("--seed", type=int, help="same seed, same picture")
    parser.add_argument("--format", choices=("png", "webp", "jpeg"), default="png", help="kind of file (default: png)")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path(), help="directory to save into (default: this one)")
    parser.add_argument("--whole", action="store_true", help="ask for whole pictures alone, without a stream")
    add_connection_options(parser)


def run(options: argparse.Namespace) -> ExitStatus:
    """Draw and save; print each path."""
    body = request_body(options)
    make_directory(options.out)
    path = EDITS if options.edit else GENERATIONS
    with connected(options) as connection:
        body["model"] = connection.model
        num_saved = _whole(connection, path, body, options) if options.whole else _streamed(connection, path, body, options)
    if num_saved == 0:
        raise Refused("the server sent no picture", ExitStatus.FAILED)
    return ExitStatus.OK


def request_body(options: argparse.Namespace) -> dict[str, object]:
    """Return the request without its model; what was not asked for is left to the server."""
    fields: dict[str, object] = {
        "prompt": options.prompt,
        "n": options.number,
        "size": options.size,
        "quality": options.quality,
        "num_inference_steps": options.steps,
        "step_cache": options.step_cache,
        "seed": options.seed,
        "output_format": options.format,
        "images": [{"image_url": data_uri(file)} for file in options.edit] or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _streamed(connection: Connection, path: str, body: dict[str, object], options: argparse.Namespace) -> int:
    progress, num_saved = Progress(sys.stderr), 0
    for event in connection.client.pictures(path, {**body, "stream": True, "partial_images": NUM_PREVIEWS}):
        if event.type.endswith(".completed"):
            progress.clear()
            print(save(base64.b64decode(event.b64_json), options.out), flush=True)
            num_saved += 1
        else:
            progress.show(f"picture {event.index + 1}", event.partial_image_index + 1, NUM_PREVIEWS + 1)
    progress.clear()
    return num_saved


def _whole(connection: Connection, path: str, body: dict[str, object], options: argparse.Namespace) -> int:
    pictures = connection.client.whole_pictures(path, body).data
    for picture in pictures:
        if picture.b64_json is None:
            print(picture.url)
        else:
            print(save(base64.b64decode(picture.b64_json), options.out), flush=True)
    return len(pictures)


COMMAND = Command('image "prompt" [options]', LESSON, add_options, run)
