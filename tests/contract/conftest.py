"""One front for the whole directory, all real but the engine, which answers in words, with a picture, or with a call, as it may."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.messages import OutputMode, Request
from tests.server.api.chats import hello, picture, tokens
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import Output, ScriptedEngine, finish

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"location": "San Francisco"}}\n</tool_call>'


def agreeable(request: Request) -> list[list[Output]]:
    """Call the tool that the grammar speaks of; else say hello."""
    if "get_weather" in (request.sampling.grammar or ""):
        return [*tokens(request, CALL), [finish(request)]]
    return [*picture(request, 0), [finish(request)]] if request.mode is OutputMode.IMAGE else hello(request)


@pytest.fixture(scope="session")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(agreeable)) as running:
        yield running
