"""``plait bench``: how fast a server answers, measured from outside."""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import math
import sys
from collections.abc import Iterable, Mapping

import httpx

from server.cli.command import Command, ExitStatus, Refused
from server.cli.connection import add_connection_options, connected
from server.cli.measurement import Body, Plan, Run, measure
from server.cli.openai_client import CONNECT_TIMEOUT_S, key_headers
from server.cli.progress import Progress
from server.settings import client_key

LESSON = """\
Measure any OpenAI-compatible server with streamed chats: time to first token, time between tokens, throughput, time to first picture.

examples:
  plait bench                                                   the model that comes with Plait, one request at a time
  plait bench --url http://gpu-box:8000 --concurrency 16 --requests 200
  plait bench --url http://gpu-box:8000 --rate 4 --requests 400     four requests a second, at random moments
  plait bench --url http://gpu-box:8000 --pictures --steps 20       one picture in each answer
  plait bench --url http://other:9000 --json > other.json           another kind of server, for comparison

Every request has its own number in the prompt, so that no cache answers twice. Times between tokens are those of pieces of one text as
they arrive: a picture ends a text. Tokens are counted by the server's usage where it reports one. Status 1 if any request failed.
"""

PROMPT = "Tell me a story about a small red star in three panels."
PICTURE_PROMPT = "A small red star at night."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--requests", type=int, default=20, help="how many requests (default: 20)")
    parser.add_argument("--concurrency", type=int, default=1, help="requests at once (default: 1)")
    parser.add_argument("--rate", type=float, metavar="PER_S", help="requests a second instead, arriving at random")
    parser.add_argument("--warm-up", type=int, default=1, metavar="N", help="requests beforehand that are not counted (default: 1)")
    parser.add_argument("--prompt", help="what to ask")
    parser.add_argument("--max-tokens", type=int, default=64, help="most tokens of an answer (default: 64)")
    parser.add_argument("--ignore-eos", action="store_true", help="write all of them, where the server can (Plait, vLLM, SGLang)")
    parser.add_argument("--pictures", action="store_true", help="ask for one picture instead of words (Plait)")
    parser.add_argument("--steps", type=int, help="denoise steps of each picture")
    parser.add_argument("--size", metavar="WxH", help="size of each picture")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="longest wait for one answer (default: 600)")
    parser.add_argument("--json", action="store_true", help="write one JSON object")
    add_connection_options(parser)


def run(options: argparse.Namespace) -> ExitStatus:
    """Measure and report."""
    if options.requests < 1 or options.concurrency < 1 or options.warm_up < 0:
        raise Refused("--requests and --concurrency start at 1, --warm-up at 0")
    if not all(0 < value < math.inf for value in (options.timeout, 1.0 if options.rate is None else options.rate)):
        raise Refused("--rate and --timeout are numbers above 0")
    with connected(options) as connection:
        measured = asyncio.run(_measured(connection.client.url, connection.model, options))
    report = summary(measured)
    print(json.dumps(report, indent=2) if options.json else table(report))
    return ExitStatus.FAILED if any(sample.error for sample in measured.samples) else ExitStatus.OK


async def _measured(url: str, model: str, options: argparse.Namespace) -> Run:
    headers = key_headers(options.key or client_key())
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    timeout = httpx.Timeout(options.timeout, connect=CONNECT_TIMEOUT_S)
    plan = Plan(options.requests, options.concurrency, options.rate, options.timeout)
    progress = Progress(sys.stderr)
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=timeout, trust_env=False) as http:
        if options.warm_up > 0:
            first = Plan(options.warm_up, 1, None, options.timeout)
            await measure(http, lambda index: request_body(options, model, -1 - index), first, unheard)
        run = await measure(
            http,
            lambda index: request_body(options, model, index),
            plan,
            lambda done: progress.show("requests", done, options.requests),
        )
    progress.clear()
    return run


def unheard(num_done: int) -> None:
    """Say nothing of how many requests are over."""


def request_body(options: argparse.Namespace, model: str, index: int) -> Body:
    """Return request number ``index``, which differs from every other in its prompt."""
    prompt = options.prompt or (PICTURE_PROMPT if options.pictures else PROMPT)
    image = {"num_inference_steps": options.steps, "size": options.size}
    fields: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": f"{index}. {prompt}"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": options.max_tokens,
        "ignore_eos": options.ignore_eos or None,
        "modalities": ["image"] if options.pictures else None,
        "image": {name: value for name, value in image.items() if value is not None} or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def summary(run: Run) -> dict[str, object]:
    """Return all figures of a run; times in seconds, None where nothing was seen."""
    good = [sample for sample in run.samples if sample.error is None]
    tokens = sum(sample.num_chunks if sample.num_tokens is None else sample.num_tokens for sample in good)
    errors = collections.Counter(sample.error for sample in run.samples if sample.error is not None)
    return {
        "requests": len(run.samples),
        "failed": len(run.samples) - len(good),
        "errors": dict(errors),
        "wall_s": round(run.wall_s, 3),
        "requests_per_s": round(len(good) / run.wall_s, 3),
        "tokens_per_s": round(tokens / run.wall_s, 2),
        "pictures_per_s": round(sum(sample.num_pictures for sample in good) / run.wall_s, 3),
        "time_to_first_token_s": quantiles(sample.first_text_s for sample in good),
        "time_between_tokens_s": quantiles(gap for sample in good for gap in sample.gaps_s),
        "time_to_first_picture_s": quantiles(sample.first_picture_s for sample in good),
        "answer_s": quantiles(sample.total_s for sample in good),
    }


def quantiles(values: Iterable[float | None]) -> dict[str, float] | None:
    """Return p50, p90 and p99 by nearest rank, with the mean; None of nothing."""
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return None
    ranks = {f"p{percent}": ordered[math.ceil(len(ordered) * percent / 100) - 1] for percent in (50, 90, 99)}
    return {name: round(value, 5) for name, value in {"mean": sum(ordered) / len(ordered), **ranks}.items()}


def table(report: Mapping[str, object]) -> str:
    """Return the figures as a person reads them."""
    lines = [f"{report['requests']} requests, {report['failed']} failed, in {report['wall_s']} s"]
    lines += [f"  {count} x {error}" for error, count in _mapping(report["errors"]).items()]
    lines.append(f"{report['requests_per_s']} requests/s   {report['tokens_per_s']} tokens/s   {report['pictures_per_s']} pictures/s")
    lines.append(f"\n{'milliseconds':24}{'mean':>10}{'p50':>10}{'p90':>10}{'p99':>10}")
    for name in ("time_to_first_token_s", "time_between_tokens_s", "time_to_first_picture_s", "answer_s"):
        figures = report[name]
        if figures is not None:
            cells = "".join(f"{1000 * float(str(value)):10.1f}" for value in _mapping(figures).values())
            lines.append(f"{name.removesuffix('_s').replace('_', ' '):24}{cells}")
    return "\n".join(lines)


def _mapping(value: object) -> Mapping[str, object]:
    assert isinstance(value, Mapping)
    return value


COMMAND = Command("bench [options]", LESSON, add_options, run)
