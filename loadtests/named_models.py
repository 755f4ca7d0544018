"""Models by name, so that a measurement needs no checkpoint: storybook, and random ones of a named size."""

from __future__ import annotations

from pathlib import Path

from model.config import BagelConfig
from model.random_checkpoint import write_random_checkpoint
from model.shipped import STORYBOOK

RANDOM_SIZES = ("tiny", "mid", "bagel-7b")


def model_directory(name: str, scratch: Path) -> Path:
    """Return the directory of a model: ``name`` itself where it is none of the names; a random model is written to ``scratch``."""
    if name == STORYBOOK.name:
        return STORYBOOK
    if name not in RANDOM_SIZES:
        return Path(name)
    write_random_checkpoint(scratch / name, BagelConfig.named(name))
    return scratch / name
