"""Figures of a run as they are kept: JSON to be read by people and programs alike."""

from __future__ import annotations

from pathlib import Path

import msgspec


def write_json(path: Path, figures: object) -> None:
    """Write ``figures``, of whatever msgspec knows to encode."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")
