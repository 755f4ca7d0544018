"""Pictures in a terminal: drawn where it can draw (kitty's protocol, iTerm2's, sixel), else saved, with the path printed."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import TextIO

from PIL import Image

from server.cli.saved_pictures import save

KITTY_CHUNK_CHARS = 4096
"""kitty's graphics protocol takes at most so many characters of base64 in one escape sequence."""

KITTY_TERMS = ("kitty", "ghostty")
KITTY_PROGRAMS = frozenset({"ghostty", "WezTerm"})
ITERM_PROGRAMS = frozenset({"iTerm.app", "vscode", "mintty"})
SIXEL_TERMS = ("foot", "mlterm", "contour", "yaft")

SHOWN_SIDE = 256
"""Smaller pictures are enlarged to this many pixels, or a 64 pixel picture would be a thumbnail."""
SIXEL_COLOURS = 255
SIXEL_BAND = 6
"""A sixel is a column of six pixels."""


class Protocol(Enum):
    """How a terminal draws pictures."""

    KITTY = "kitty"
    ITERM = "iterm"
    SIXEL = "sixel"
    NONE = "none"


def protocol_of(environment: Mapping[str, str], *, is_terminal: bool) -> Protocol:
    """Return how the terminal that ``environment`` describes draws pictures."""
    if not is_terminal or environment.get("TMUX"):
        return Protocol.NONE
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if environment.get("KITTY_WINDOW_ID") or program in KITTY_PROGRAMS or any(name in term for name in KITTY_TERMS):
        return Protocol.KITTY
    if program in ITERM_PROGRAMS or environment.get("LC_TERMINAL") == "iTerm2":
        return Protocol.ITERM
    if "sixel" in term or term.startswith(SIXEL_TERMS):
        return Protocol.SIXEL
    return Protocol.NONE


class PictureOutlet:
    """Shows pictures on ``out``, and saves them under ``directory`` where they must be or ``out`` cannot show them."""

    def __init__(self, out: TextIO, protocol: Protocol, directory: Path, *, must_save: bool) -> None:
        self._out = out
        self._protocol = protocol
        self._directory = directory
        self._must_save = must_save or protocol is Protocol.NONE

    def take(self, encoded: bytes) -> Path | None:
        """Show or save one picture, a PNG, JPEG or WebP file; return where it was saved. Raises as `save`."""
        if self._protocol is not Protocol.NONE:
            self._out.write("".join(drawn(encoded, self._protocol)) + "\n")
        path = save(encoded, self._directory) if self._must_save else None
        if path is not None:
            self._out.write(f"[picture: {path}]\n")
        self._out.flush()
        return path


def picture_of(url: str) -> bytes:
    """Return the bytes of a data URI."""
    return base64.b64decode(url.partition(",")[2])


def drawn(encoded: bytes, protocol: Protocol) -> Iterator[str]:
    """Yield the escape sequences that draw a picture."""
    with Image.open(io.BytesIO(encoded)) as image:
        shown = _enlarged(image.convert("RGB"))
    match protocol:
        case Protocol.KITTY:
            yield from _kitty(_png(shown))
        case Protocol.ITERM:
            png = _png(shown)
            yield f"\x1b]1337;File=inline=1;size={len(png)}:{base64.b64encode(png).decode('ascii')}\x07"
        case Protocol.SIXEL:
            yield from _sixel(shown)
        case Protocol.NONE:
            pass


def _enlarged(image: Image.Image) -> Image.Image:
    factor = SHOWN_SIDE // max(image.size)
    return image if factor < 2 else image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _kitty(png: bytes) -> Iterator[str]:
    """kitty's documentation, "Terminal graphics protocol": f=100 is PNG, a=T transmit and display, m=1 more follows."""
    text = base64.b64encode(png).decode("ascii")
    for start in range(0, len(text), KITTY_CHUNK_CHARS):
        control = "a=T,f=100," if start == 0 else ""
        more = int(start + KITTY_CHUNK_CHARS < len(text))
        yield f"\x1b_G{control}m={more};{text[start : start + KITTY_CHUNK_CHARS]}\x1b\\"


def _sixel(image: Image.Image) -> Iterator[str]:
    """DEC's sixel format: a palette in percent, then for each band of six rows one line of sixels for each colour in it."""
    flat = image.quantize(SIXEL_COLOURS)
    palette = flat.getpalette() or []
    yield f'\x1bPq"1;1;{flat.width};{flat.height}'
    for colour in range(len(palette) // 3):
        red, green, blue = (100 * value // 255 for value in palette[3 * colour : 3 * colour + 3])
        yield f"#{colour};2;{red};{green};{blue}"
    pixels = flat.tobytes()
    for top in range(0, flat.height, SIXEL_BAND):
        rows = [pixels[y * flat.width : (y + 1) * flat.width] for y in range(top, min(top + SIXEL_BAND, flat.height))]
        for colour in sorted(set(b"".join(rows))):
            yield f"#{colour}{_sixel_line(rows, colour)}$"
        yield "-"
    yield "\x1b\\"


def _sixel_line(rows: list[bytes], colour: int) -> str:
    """Return one colour's sixels of a band, runs shortened."""
    columns = ["".join(("1" if row[x] == colour else "0") for row in reversed(rows)) for x in range(len(rows[0]))]
    line, start = [], 0
    for x in range(1, len(columns) + 1):
        if x == len(columns) or columns[x] != columns[start]:
            sixel, count = chr(63 + int(columns[start], 2)), x - start
            line.append(f"!{count}{sixel}" if count > 3 else sixel * count)
            start = x
    return "".join(line)
