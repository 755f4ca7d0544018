"""``plait random-model``: writes a small model with random weights, for trying things out."""

from __future__ import annotations

import argparse
from pathlib import Path

from server.cli.command import Command, ExitStatus


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's one argument."""
    parser.add_argument("directory", type=Path)


def run(options: argparse.Namespace) -> ExitStatus:
    """Write a small random model; equal every time."""
    from model.config import BagelConfig
    from model.random_checkpoint import write_random_checkpoint

    write_random_checkpoint(options.directory, BagelConfig.named("tiny"), seed=0)
    return ExitStatus.OK


COMMAND = Command("random-model DIR", "Writes a small random model.", add_options, run)
