"""One front for the whole directory, all real but the engine, which answers in words, or with a call where one may come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.messages import Request
from tests.server.api.chats import hello, tokens
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import Output, ScriptedEngine, finish

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"location": "San Francisco"}}\n</tool_call>'


def agreeable(request: Request) -> list[list[Output]]:
    """Call the tool that the grammar speaks of; else say hello."""
    if "get_weather" in (request.sampling.grammar or ""):
        return [*tokens(request, CALL), [finish(request)]]
    return hello(request)


@pytest.fixture(scope="session")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(agreeable)) as running:
        yield running
