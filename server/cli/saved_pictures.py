"""Pictures as files: the commands save every one they are given here, as ``plait-1.png`` and so on, never over a file that is there."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from server.cli.command import ExitStatus, Refused

EXTENSIONS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


def make_directory(directory: Path) -> None:
    """Make sure that pictures can be saved into ``directory``; commands do it before they ask for any.

    Raises:
        Refused: there can be no such directory.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"{directory}: {error.strerror}") from error


def save(encoded: bytes, directory: Path) -> Path:
    """Save one picture, a PNG, JPEG or WebP file, and return where.

    Raises:
        Refused: it is no picture, or cannot be written.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            extension = EXTENSIONS.get(image.format or "", ".png")
        return _write(encoded, directory, extension)
    except OSError as error:
        raise Refused(f"a picture cannot be saved: {error}", ExitStatus.FAILED) from error


def _write(encoded: bytes, directory: Path, extension: str) -> Path:
    number = 1
    while True:
        path = directory / f"plait-{number}{extension}"
        try:
            with path.open("xb") as file:
                file.write(encoded)
            return path
        except FileExistsError:
            number += 1
