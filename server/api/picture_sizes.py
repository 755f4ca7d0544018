"""Sizes of pictures as requests write them: 'auto', or WIDTHxHEIGHT in pixels."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from server.api.wire_object import invalid

PictureSize = Annotated[str, Field(max_length=11)]


def check_size(size: str | None) -> None:
    """Refuse a size that is not written as one."""
    if size not in (None, "auto") and re.fullmatch(r"[0-9]{1,5}x[0-9]{1,5}", size or "") is None:
        raise invalid("expected 'auto' or WIDTHxHEIGHT in pixels, such as '1024x768'", "size")


def size_of(size: str | None) -> tuple[int, int] | None:
    """Return (width, height); None where the model decides."""
    if size is None or size == "auto":
        return None
    width, height = size.split("x")
    return int(width), int(height)
