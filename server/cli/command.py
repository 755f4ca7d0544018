"""What a command is, how one is refused, and the statuses `plait` ends with. Imports nothing heavy: every command starts here."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum


class ExitStatus(IntEnum):
    """How a command ended, as its process's exit status."""

    OK = 0
    FAILED = 1
    """What was asked for did not come about: an answer failed, a check found a fault."""
    BAD_INPUT = 2
    """The command line, the settings or the model directory are wrong."""
    ENGINE_FAILED = 3
    INTERRUPTED = 130
    """Ctrl-C, as shells count it."""


class Refused(Exception):
    """A command that cannot go on; the message is for whoever typed it."""

    def __init__(self, message: str, status: ExitStatus = ExitStatus.BAD_INPUT) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Command:
    """One command of ``plait``.

    Attributes:
        usage: what follows ``plait``, in one line.
        lesson: the text above the list of options in its help: what it does, with examples.
        add_options: declares its options.
        run: does it; raises `Refused` where it cannot.
    """

    usage: str
    lesson: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], ExitStatus]
