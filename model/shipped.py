"""Where the model that comes with the package lies: storybook, trained by `model.storybook`. Imports no torch."""

from __future__ import annotations

from pathlib import Path

STORYBOOK = Path(__file__).with_name("checkpoints") / "storybook"
"""A model directory like any other; its card is the README.md inside."""
