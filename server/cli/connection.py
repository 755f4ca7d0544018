"""The options by which a command finds its server, and what becomes of them: a server that runs, or one of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.cli.command import ExitStatus, Refused
from server.cli.openai_client import ModelCard, OpenAiClient
from server.cli.own_server import own_server
from server.cli.progress import Progress
from server.settings import client_key


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """Declare ``--url``, ``--model`` and ``--key``."""
    parser.add_argument("--url", help="a server that runs, any OpenAI-compatible one; without it one is started for this command")
    parser.add_argument("--model", help="with --url the model's name, else a model directory; default: what the server serves")
    parser.add_argument("--key", help="API key of the server; default: PLAIT_API_KEY or OPENAI_API_KEY of the environment")


@dataclass(frozen=True, slots=True)
class Connection:
    """A client of the server to ask, the model to ask it for, and the model's family where the server names it: only Plait does."""

    client: OpenAiClient
    model: str
    family: str


@contextmanager
def connected(options: argparse.Namespace) -> Iterator[Connection]:
    """Connect to the server that the options name, or to a new one.

    Raises:
        Refused: no server can be reached or started.
    """
    if options.url is not None:
        with OpenAiClient(options.url, options.key or client_key()) as client:
            card = first_model(client)
            yield Connection(client, options.model or card.id, card.family)
        return
    progress = Progress(sys.stderr)
    with own_server([] if options.model is None else ["--model", options.model]) as own:
        progress.note("loading the model")
        try:
            url = own.wait_for_url()
        finally:
            progress.clear()
        with OpenAiClient(url, None) as client:
            card = first_model(client)
            yield Connection(client, card.id, card.family)


def first_model(client: OpenAiClient) -> ModelCard:
    """Return the first model that a server lists.

    Raises:
        Refused: it lists none.
    """
    models = client.models()
    if not models:
        raise Refused(f"{client.url} lists no model; name one with --model", ExitStatus.FAILED)
    return models[0]
