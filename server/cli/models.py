"""``plait models``: what a server serves."""

from __future__ import annotations

import argparse
import sys

import msgspec

from server.cli.command import Command, ExitStatus
from server.cli.openai_client import ModelCard, OpenAiClient
from server.settings import client_key

DEFAULT_URL = "http://127.0.0.1:8000"

LESSON = """\
List what a server serves: names, families, what goes in and comes out, sizes of pictures, length of the context.

examples:
  plait models                                the server on this machine
  plait models --url http://gpu-box:8000      another one, of any OpenAI-compatible kind
  plait models --json | jq -r '.[].id'
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--url", default=DEFAULT_URL, help=f"the server (default: {DEFAULT_URL})")
    parser.add_argument("--key", help="API key of the server; default: PLAIT_API_KEY or OPENAI_API_KEY of the environment")
    parser.add_argument("--json", action="store_true", help="write a JSON list")


def run(options: argparse.Namespace) -> ExitStatus:
    """List the models."""
    with OpenAiClient(options.url, options.key or client_key()) as client:
        models = client.models()
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(models)).decode())
        return ExitStatus.OK
    for model in models:
        sys.stdout.write("\n".join(_lines(model)) + "\n")
    return ExitStatus.OK


def _lines(model: ModelCard) -> list[str]:
    lines = [model.id]
    if model.family:
        lines.append(f"  family   {model.family}")
    if model.input_modalities:
        lines.append(f"  reads    {', '.join(model.input_modalities)}")
        lines.append(f"  answers  {', '.join(model.output_modalities)}")
    if model.max_model_len is not None:
        lines.append(f"  context  {model.max_model_len:,} rows")
    if model.image is not None:
        lines.append(f"  pictures {model.image.default_size}; offered: {', '.join(model.image.offered_sizes)}")
    return lines


COMMAND = Command("models [options]", LESSON, add_options, run)
