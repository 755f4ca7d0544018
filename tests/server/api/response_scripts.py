"""What the scripted engine of tests of the Responses API answers."""

from __future__ import annotations

from server.messages import FinishReason, OutputMode, Request, TextClosed
from tests.server.api.chats import endless, hello, spelled, story, tokens
from tests.server.api.pictures import drawing
from tests.server.scripted_engine import Output, finish

MODEL = "tiny_a"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>'


def by_prompt(request: Request) -> list[list[Output]]:
    """Call a function where a grammar speaks of calls, draw where only pictures are asked for; else play what the last words name."""
    if "tool_call" in (request.sampling.grammar or ""):
        return [*tokens(request, CALL), [finish(request)]]
    if request.mode is OutputMode.IMAGE:
        return drawing(request)
    return {"tell a story": story, "wait": endless, "be cut off": cut_off}.get(spelled(request)[-1], hello)(request)


def cut_off(request: Request) -> list[list[Output]]:
    """End for want of room in the middle of a text."""
    return [*tokens(request, "once"), [TextClosed(request.request_id), finish(request, FinishReason.LENGTH)]]
