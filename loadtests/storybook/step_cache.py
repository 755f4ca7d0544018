"""What step caching costs and saves: score, likeness to the pictures drawn without it, and seconds, one picture at a time.

``python -m loadtests.storybook.step_cache --url http://127.0.0.1:8000 --json step-cache.json``

The likeness is the mean PSNR of a picture against the one that the same prompt and seed bring when every step is computed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

import httpx

from loadtests.psnr import psnr_db
from loadtests.storybook.client import Client, Json, Pixels, open_http
from loadtests.storybook.evaluate import items_of, wait_until_ready, wilson_interval
from loadtests.storybook.rows import ROWS, Item

ROW_NAMES = ("attribution", "edits")
SETTINGS: tuple[Json, ...] = (
    {"step_cache": 1},
    {"step_cache": 2, "step_cache_order": 1},
    {"step_cache": 3, "step_cache_order": 0},
    {"step_cache": 3, "step_cache_order": 1},
    {"step_cache": 3, "step_cache_order": 2},
    {"step_cache": 3, "step_cache_order": 4},
    {"step_cache": 3, "step_cache_order": 1, "step_cache_first": 2},
    {"step_cache": 5, "step_cache_order": 1},
    {"step_cache": 8, "step_cache_order": 1},
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """One answer: its picture, whether the judge accepts it, and how long it took."""

    picture: Pixels
    is_right: bool
    seconds: float


async def draw(items: list[Item], client: Client) -> list[Drawn]:
    """Ask for one picture after the other."""
    drawn = []
    for item in items:
        started = time.perf_counter()
        answer = await client.ask(item.question)
        seconds = time.perf_counter() - started
        drawn.append(Drawn(answer.pictures[0], item.judge(answer)["right"], seconds))
    return drawn


def figures_of(settings: Json, drawn: list[Drawn], whole: list[Drawn]) -> Json:
    """Sum up the pictures drawn under ``settings`` beside the ``whole`` ones of the same prompts."""
    num_right = sum(one.is_right for one in drawn)
    low, high = wilson_interval(num_right, len(drawn))
    likeness = mean(psnr_db(one.picture, other.picture) for one, other in zip(drawn, whole, strict=True))
    seconds = median(one.seconds for one in drawn)
    return {
        **settings,
        "n": len(drawn),
        "right": num_right / len(drawn),
        "low": low,
        "high": high,
        "psnr_db": round(likeness, 2),
        "seconds": round(seconds, 5),
        "speedup": round(median(one.seconds for one in whole) / seconds, 3),
    }


async def sweep(http: httpx.AsyncClient, number: int, seed: int) -> dict[str, list[Json]]:
    """Draw the same prompts of each row under every setting."""
    await wait_until_ready(http)
    plain = await Client.of_server(http, {})
    table: dict[str, list[Json]] = {}
    for row in (row for row in ROWS if row.name in ROW_NAMES):
        items = items_of(row, number, seed)
        await draw(items[:3], plain)
        whole: list[Drawn] = []
        for settings in SETTINGS:
            drawn = await draw(items, replace(plain, image_options=settings))
            whole = whole or drawn
            table.setdefault(row.name, []).append(figures_of(settings, drawn, whole))
            print(row.name, table[row.name][-1], flush=True)
    return table


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--number", type=int, default=60, help="prompts a row")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--json", type=Path, default=Path("step-cache.json"))
    options = parser.parse_args()
    async with open_http(options.url) as http:
        table = await sweep(http, options.number, options.seed)
    options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
