"""Score against guidance: every mode with each text scale and image scale, for drawing and for editing.

``python -m loadtests.storybook.guidance --url http://127.0.0.1:8000 --json guidance.json --plot guidance.svg``
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from loadtests.storybook.client import Client, open_http
from loadtests.storybook.evaluate import score_row
from loadtests.storybook.rows import ROWS
from model.storybook.plots import Curve, write_plot

MODES = ("bagel", "illume")
TEXT_SCALES = (1.0, 2.0, 4.0, 8.0)
IMAGE_SCALES = (1.0, 1.25, 1.5)
DRAWING_ROW, EDITING_ROW = "attribution", "edits"


async def sweep(url: str, number: int, concurrency: int) -> list[Curve]:
    """Return the share of right answers over the text scale: drawing, which no image scale touches, and editing at each image scale."""
    rows = {row.name: row for row in ROWS}
    cases = [(DRAWING_ROW, mode, 1.0) for mode in MODES] + [(EDITING_ROW, mode, scale) for mode in MODES for scale in IMAGE_SCALES]
    curves = []
    async with open_http(url) as http:
        for name, mode, image_scale in cases:
            points = []
            for text_scale in TEXT_SCALES:
                client = await Client.of_server(http, {"guidance": mode, "text_scale": text_scale, "image_scale": image_scale})
                score = await score_row(rows[name], client, number, concurrency, seed=1)
                points.append((text_scale, score.passed["right"] / score.num_items))
            curves.append(Curve(f"{name} {mode} image {image_scale:g}", points))
            print(curves[-1].name, points, flush=True)
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--number", type=int, default=100, help="prompts a point")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--json", default="guidance.json")
    parser.add_argument("--plot", default="guidance.svg")
    options = parser.parse_args()
    curves = asyncio.run(sweep(options.url, options.number, options.concurrency))
    Path(options.json).write_text(json.dumps({curve.name: curve.points for curve in curves}, indent=1) + "\n")
    write_plot(Path(options.plot), "share of right answers over the text scale", curves)


if __name__ == "__main__":
    main()
