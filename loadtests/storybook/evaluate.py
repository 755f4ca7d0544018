"""The scoreboard: ``python -m loadtests.storybook.evaluate --url http://127.0.0.1:8000`` scores a running storybook server over HTTP.

Prints, for each row, the share of right answers with its 95 % interval (Wilson), and writes every figure to a JSON file on request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx

from loadtests.storybook.client import Client, Json, open_http
from loadtests.storybook.rows import ROWS, Item, Row, Verdict

READY_WITHIN_S = 120
Z_95 = 1.96


@dataclass(slots=True)
class Score:
    """Counts of one row: answers, and how many pass each check."""

    name: str
    num_items: int = 0
    num_failed: int = 0
    passed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, verdict: Verdict | None) -> None:
        self.num_items += 1
        if verdict is None:
            self.num_failed += 1
            return
        for check, is_passed in verdict.items():
            self.passed[check] += is_passed

    def figures(self) -> Json:
        shares = {check: passed / self.num_items for check, passed in self.passed.items()}
        low, high = wilson_interval(self.passed["right"], self.num_items)
        return {"n": self.num_items, "failed": self.num_failed, **shares, "low": low, "high": high, "seconds": round(self.seconds, 1)}

    def line(self) -> str:
        low, high = wilson_interval(self.passed["right"], self.num_items)
        others = "  ".join(f"{check} {passed / self.num_items:.3f}" for check, passed in self.passed.items() if check != "right")
        failed = f"  {self.num_failed} requests failed" if self.num_failed else ""
        return f"{self.name:12} {self.passed['right'] / self.num_items:.3f}  [{low:.3f}, {high:.3f}]  n={self.num_items}  {others}{failed}"


def wilson_interval(passed: int, number: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    share = passed / number
    centre = share + Z_95**2 / (2 * number)
    spread = Z_95 * math.sqrt(share * (1 - share) / number + Z_95**2 / (4 * number**2))
    scale = 1 + Z_95**2 / number
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def items_of(row: Row, number: int, seed: int) -> list[Item]:
    """Draw items that ask different things."""
    rng = Random(f"{seed} {row.name}")
    items: dict[tuple[str, bytes], Item] = {}
    while len(items) < number:
        item = row.make(rng)
        picture = b"" if item.question.picture is None else item.question.picture.tobytes()
        items.setdefault((item.question.words, picture), item)
    return list(items.values())


async def score_row(row: Row, client: Client, number: int, concurrency: int, seed: int) -> Score:
    """Ask everything in a row, ``concurrency`` at a time, and count."""
    score, started = Score(row.name), time.monotonic()
    gate = asyncio.Semaphore(concurrency)

    async def one(item: Item) -> None:
        async with gate:
            try:
                verdict = item.judge(await client.ask(item.question))
            except httpx.HTTPError as error:
                if score.num_failed == 0:
                    print(f"{row.name}: {error}", file=sys.stderr)
                verdict = None
        score.add(verdict)

    await asyncio.gather(*(one(item) for item in items_of(row, number, seed)))
    score.seconds = time.monotonic() - started
    return score


async def evaluate(options: argparse.Namespace) -> None:
    rows = [row for row in ROWS if not options.rows or row.name in options.rows]
    figures: dict[str, Json] = {}
    async with open_http(options.url) as http:
        await wait_until_ready(http)
        client = await Client.of_server(http, image_options(options))
        for row in rows:
            score = await score_row(row, client, options.number, options.concurrency, options.seed)
            figures[row.name] = score.figures()
            print(score.line(), flush=True)
            if options.json:
                Path(options.json).write_text(json.dumps({"options": vars(options), "rows": figures}, indent=1) + "\n")


async def wait_until_ready(http: httpx.AsyncClient) -> None:
    """Wait while the server loads its model.

    Raises:
        TimeoutError: it is not ready after `READY_WITHIN_S`.
    """
    for _ in range(READY_WITHIN_S):
        try:
            if (await http.get("/readyz")).status_code == httpx.codes.OK:
                return
        except httpx.ConnectError:
            pass
        await asyncio.sleep(1.0)
    raise TimeoutError(f"{http.base_url} was not ready within {READY_WITHIN_S} s")


def image_options(options: argparse.Namespace) -> Json:
    """Return the options of every picture that were given; the model's defaults hold for the rest."""
    given = {
        "num_inference_steps": options.steps,
        "guidance": options.guidance,
        "text_scale": options.text_scale,
        "image_scale": options.image_scale,
        "shift": options.shift,
        "step_cache": options.step_cache,
        "step_cache_order": options.step_cache_order,
        "step_cache_first": options.step_cache_first,
    }
    return {name: value for name, value in given.items() if value is not None}


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rows", nargs="*", choices=[row.name for row in ROWS], help="only these rows")
    parser.add_argument("--number", type=int, default=200, help="prompts a row")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="num_inference_steps of every picture")
    parser.add_argument("--guidance", choices=("bagel", "illume"))
    parser.add_argument("--text-scale", type=float)
    parser.add_argument("--image-scale", type=float)
    parser.add_argument("--shift", type=float)
    parser.add_argument("--step-cache", type=int, help="compute every n-th step alone, after the first")
    parser.add_argument("--step-cache-order", type=int)
    parser.add_argument("--step-cache-first", type=int)
    parser.add_argument("--json", help="file for all figures")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(evaluate(parse_options()))
