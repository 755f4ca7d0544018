"""What no refusal may hold."""

from __future__ import annotations

import json
import re

import httpx

MAX_REFUSAL_BYTES = 8 << 10
GIVEAWAYS = (
    re.compile(r"0x[0-9a-f]{6,}", re.IGNORECASE),
    re.compile(r"Traceback|File \"|\.py\b|site-packages"),
    re.compile(r"(?<![\w:/])/(?:usr|home|root|tmp|opt|etc|var|work|proc)/"),
    re.compile(r"object at |<class |Errno|PIL\.|pydantic|starlette"),
)
"""Addresses, paths, tracebacks, and the names of our parts."""


def assert_gives_nothing_away(response: httpx.Response) -> None:
    """Assert that an error is OpenAI's, small, and silent about the machine."""
    assert len(response.content) <= MAX_REFUSAL_BYTES
    error = json.loads(response.content)["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"] and error["code"]
    for pattern in GIVEAWAYS:
        assert pattern.search(response.text) is None, f"{pattern.pattern}: {response.text[:500]}"
