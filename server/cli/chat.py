"""``plait chat``: one question, or a conversation, in words and pictures, on a terminal."""

from __future__ import annotations

import argparse
import re
import readline  # noqa: F401  lets `input` edit lines and remember them
import sys
from pathlib import Path

from server.cli.command import Command, ExitStatus, Refused
from server.cli.connection import add_connection_options, connected
from server.cli.parser import nearest
from server.cli.saved_pictures import make_directory
from server.cli.talk import Talk
from server.cli.terminal_pictures import PictureOutlet, protocol_of
from server.settings import terminal_environment

LESSON = """\
Talk to a model in words and pictures. Pictures are drawn in terminals that can (kitty, Ghostty, WezTerm, iTerm2, foot and others);
elsewhere they are saved and the path is printed.

examples:
  plait chat "a red circle"                                   one answer, from the model that comes with Plait
  plait chat                                                  a conversation; /help says what else can be typed
  plait chat "what is in this picture?" --picture photo.jpg
  plait chat "make it night" --picture scene.png --draw
  plait chat --model ./BAGEL-7B-MoT --steps 30                a model of your own
  plait chat --url http://gpu-box:8000 "tell me a story"      a server that runs already, this one or another kind

Words go to standard output, progress to standard error: a bar on a terminal, JSON lines otherwise.
"""

PROMPT = "> "

BAGEL = "bagel"
"""The family of models that draw only when they are told to, as /v1/models names it."""

HELP = """\
/new             begin a new conversation
/picture FILE    add a picture to the next message
/help            this
/quit            leave, as does Ctrl-D; Ctrl-C stops an answer
"""

SLASH_COMMANDS = ("/new", "/picture FILE", "/help", "/quit")
SLASH_COMMAND = re.compile(r"/[a-z]+")
"""What looks like a command is never a message: a path has more slashes."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("message", nargs="?", help="what to say; without it a conversation begins")
    parser.add_argument("--picture", metavar="FILE", type=Path, action="append", default=[], help="a picture to send; may be repeated")
    parser.add_argument("--draw", action="store_true", help="answer with pictures alone")
    parser.add_argument("--words", action="store_true", help="answer with words alone")
    parser.add_argument("--steps", type=int, help="denoise steps of each picture")
    parser.add_argument("--size", metavar="WxH", help="size of pictures in pixels, such as 512x512")
    parser.add_argument("--max-tokens", type=int, help="most tokens of words")
    parser.add_argument("--seed", type=int, help="same seed, same answer")
    parser.add_argument("--save", metavar="DIR", type=Path, help="save every picture here, also where it is drawn")
    add_connection_options(parser)


def run(options: argparse.Namespace) -> ExitStatus:
    """Answer one message, or converse until told to stop."""
    if options.save is not None:
        make_directory(options.save)
    outlet = PictureOutlet(
        sys.stdout,
        protocol_of(terminal_environment(), is_terminal=sys.stdout.isatty()),
        options.save or Path(),
        must_save=options.save is not None,
    )
    with connected(options) as connection:
        talk = Talk(connection.client, connection.model, request_options(options, connection.family), outlet)
        if options.message is None:
            converse(talk, list(options.picture))
        else:
            talk.ask(options.message, options.picture)
    return ExitStatus.OK


def request_options(options: argparse.Namespace, family: str) -> dict[str, object]:
    """Return the fields of every request. What only Plait knows is left out for other servers, unless it is asked for."""
    modalities = chosen_modalities(options, family)
    image = {"num_inference_steps": options.steps, "size": options.size, "progress": True if family else None}
    fields: dict[str, object] = {
        "modalities": modalities,
        "max_completion_tokens": options.max_tokens,
        "seed": options.seed,
        "image": None if modalities == ["text"] else {name: value for name, value in image.items() if value is not None} or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def chosen_modalities(options: argparse.Namespace, family: str) -> list[str] | None:
    """Return what the answer shall hold; None leaves it to the model. BAGEL never draws unasked: a question about a picture is
    answered in words, anything else in both."""
    if options.draw and options.words:
        raise Refused("--draw and --words cannot be used together")
    if options.draw or options.words:
        return ["image"] if options.draw else ["text"]
    if family == BAGEL:
        return ["text"] if options.picture else ["text", "image"]
    return None


def converse(talk: Talk, pictures: list[Path]) -> None:
    """Read messages and answer them until the input ends. A refusal is said, and the conversation goes on."""
    print("Say something; /help says what else can be typed.", file=sys.stderr)
    while True:
        try:
            line = _typed().strip()
        except EOFError:
            print(file=sys.stderr)
            return
        match line.split(maxsplit=1):
            case []:
                continue
            case ["/quit" | "/exit"]:
                return
            case ["/help"]:
                print(HELP, end="", file=sys.stderr)
            case ["/new"]:
                talk.forget()
            case ["/picture", path]:
                pictures.append(Path(path).expanduser())
            case [word, *_] if SLASH_COMMAND.fullmatch(word):
                print(f"plait: there is no '{line}'{nearest(word, SLASH_COMMANDS)}; /help lists what there is", file=sys.stderr)
            case _:
                _answer(talk, line, pictures)
                pictures = []


def _typed() -> str:
    """Read one line. Where somebody types it a mark asks for it, which is no part of what standard output holds for a program."""
    if not sys.stdin.isatty():
        return input()
    if sys.stdout.isatty():
        return input(PROMPT)
    print(PROMPT, end="", file=sys.stderr, flush=True)
    return input()


def _answer(talk: Talk, line: str, pictures: list[Path]) -> None:
    try:
        talk.ask(line, pictures)
    except Refused as refusal:
        print(f"plait: {refusal}", file=sys.stderr)
    except KeyboardInterrupt:
        print("[stopped]", file=sys.stderr)


COMMAND = Command('chat ["message"] [options]', LESSON, add_options, run)
