"""The options by which a command finds its server, and what becomes of them: a server that runs, or one of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.cli.command import ExitStatus, Refused
from server.cli.openai_server import ModelCard, OpenAiServer
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
    """A server to ask, the model to ask it for, and its family where the server says it: only Plait does."""

    server: OpenAiServer
    model: str
    family: str


@contextmanager
def connected(options: argparse.Namespace) -> Iterator[Connection]:
    """Connect to the server that the options name, or to a new one.

    Raises:
        Refused: no server can be reached or started.
    """
    if options.url is not None:
        with OpenAiServer(options.url, options.key or client_key()) as server:
            card = only_model(server)
            yield Connection(server, options.model or card.id, card.family)
        return
    progress = Progress(sys.stderr)
    with own_server([] if options.model is None else ["--model", options.model]) as own:
        progress.note("loading the model")
        try:
            url = own.wait_for_url()
        finally:
            progress.clear()
        with OpenAiServer(url, None) as server:
            card = only_model(server)
            yield Connection(server, card.id, card.family)


def only_model(server: OpenAiServer) -> ModelCard:
    """Return the first model that a server lists.

    Raises:
        Refused: it lists none.
    """
    models = server.models()
    if not models:
        raise Refused(f"{server.url} lists no model; name one with --model", ExitStatus.FAILED)
    return models[0]
