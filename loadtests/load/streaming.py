"""Reads a streamed answer as a person sees it: when the first words came, how far apart the next, when each picture, when the end.

Works on the pieces of the body as they come from the network, not on whole lines: a picture is one line of a hundred kilobytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

DATA = b"data: "


@dataclass(slots=True)
class Timings:
    """One answer, in seconds from its request. ``gaps`` are the times between two pieces of text of one turn."""

    first_text_s: float | None = None
    first_picture_s: float | None = None
    gaps: list[float] = field(default_factory=list)
    num_pictures: int = 0
    end_s: float = 0.0
    is_complete: bool = False
    """The stream ended as it should, with its last mark."""
    error: str | None = None


def events(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the content of each ``data:`` line, as soon as the line is whole."""
    rest: list[bytes] = []
    for piece in pieces:
        if b"\n" not in piece:
            rest.append(piece)
            continue
        *lines, last = (b"".join(rest) + piece).split(b"\n")
        rest = [last]
        yield from (line[len(DATA) :].rstrip(b"\r") for line in lines if line.startswith(DATA))


def read_answer(pieces: Iterable[bytes], clock: Callable[[], float], started: float) -> Timings:
    """Read a stream to its end and return its timings; ``started`` is when the request was sent, on ``clock``."""
    timings = Timings()
    last_text: float | None = None
    for content in events(pieces):
        now = clock() - started
        if content == b"[DONE]":
            timings.is_complete = True
            break
        chunk = json.loads(content)
        if "error" in chunk:
            timings.error = str(chunk["error"].get("code"))
            break
        for choice in chunk.get("choices", []):
            delta = choice.get("delta", {})
            if delta.get("content"):
                _note_text(timings, now, last_text)
                last_text = now
            for _ in delta.get("images") or []:
                timings.num_pictures += 1
                timings.first_picture_s = now if timings.first_picture_s is None else timings.first_picture_s
                last_text = None
    timings.end_s = clock() - started
    return timings


def _note_text(timings: Timings, now: float, last_text: float | None) -> None:
    if timings.first_text_s is None:
        timings.first_text_s = now
    elif last_text is not None:
        timings.gaps.append(now - last_text)
