"""An argument parser that answers a typo with what was probably meant."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from server.cli.command import Command, ExitStatus


def nearest(typed: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the word nearest to what was typed, or nothing."""
    found = difflib.get_close_matches(typed, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""


class CommandParser(argparse.ArgumentParser):
    """Parses the options of ``plait NAME``; ``lesson`` heads its help and is shown as it is written."""

    def __init__(self, name: str, command: Command) -> None:
        super().__init__(
            prog=f"plait {name}",
            usage=f"plait {command.usage}",
            description=command.lesson,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) -> argparse.Namespace:  # type: ignore[override]
        """Parse, and refuse what is left over with the nearest option there is."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            self.error(f"there is no option or argument '{word}'{nearest(word, self._option_string_actions)}")
        return options

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and where to read more."""
        print(f"{self.prog}: {message}\ntry '{self.prog} --help'", file=sys.stderr)
        sys.exit(ExitStatus.BAD_INPUT)
