"""Finds the command that was typed, reads its options, runs it. Only the module of that command is imported, so that help is instant."""

from __future__ import annotations

import sys

from server.cli.command import Command, ExitStatus, Refused
from server.cli.parser import CommandParser, nearest

HELP = """\
usage: plait COMMAND [options]

A server for models that write and paint in one answer.

commands:
  serve      serve a model over HTTP, with a page to talk to it at /
  chat       talk to a model in words and pictures, here in the terminal
  image      draw pictures from words, or change one, into files
  bench      measure any OpenAI-compatible server
  models     list what a server serves
  key        make an API key for a tenant
  doctor     look at machine, model and services, and name what is wrong

plait COMMAND --help teaches each of them by example.
"""

NAMES = ("serve", "chat", "image", "bench", "models", "doctor", "key")
"""What a person types. The front starts ``engine`` by itself."""


def run(arguments: list[str]) -> int:
    """Run one command; return the exit status."""
    name, *rest = arguments or [""]
    if name == "help" and rest:
        name, *rest = rest[0], "--help"
    match name:
        case "":
            print(HELP, end="", file=sys.stderr)
            return ExitStatus.BAD_INPUT
        case "-h" | "--help" | "help":
            print(HELP, end="")
        case "--version":
            print(version())
        case _:
            return _run_command(name, rest)
    return ExitStatus.OK


def version() -> str:
    """Return the installed version."""
    from server.front import version as installed

    return installed()


def _run_command(name: str, arguments: list[str]) -> int:
    command = _command(name)
    if command is None:
        print(f"plait: there is no command '{name}'{nearest(name, NAMES)}; plait --help lists them", file=sys.stderr)
        return ExitStatus.BAD_INPUT
    parser = CommandParser(name, command)
    command.add_options(parser)
    try:
        return command.run(parser.parse_args(arguments))
    except Refused as refusal:
        print(f"plait: {refusal}", file=sys.stderr)
        return refusal.status
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED


def _command(name: str) -> Command | None:
    match name:
        case "serve":
            from server.cli import serve

            return serve.COMMAND
        case "key":
            from server.cli import key

            return key.COMMAND
        case "chat":
            from server.cli import chat

            return chat.COMMAND
        case "image":
            from server.cli import image

            return image.COMMAND
        case "bench":
            from server.cli import bench

            return bench.COMMAND
        case "models":
            from server.cli import models

            return models.COMMAND
        case "doctor":
            from server.cli.doctor import command as doctor

            return doctor.COMMAND
        case "reference":
            from server.cli import reference

            return reference.COMMAND
        case "engine":
            from server.cli import engine

            return engine.COMMAND
        case "random-model":
            from server.cli import random_model

            return random_model.COMMAND
        case _:
            return None
