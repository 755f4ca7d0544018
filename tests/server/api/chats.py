"""Scripts for the scripted engine, and what tests of chats share."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import httpx

from server.messages import FinishReason, ImageOutput, ProgressOutput, Request, TextClosed, TextSegment, TokenLogprob, TokenOutput
from tests.server.running_front import golden_model
from tests.server.scripted_engine import Output, finish, red_picture

TOKENIZER = golden_model().tokenizer
STORY = ["Once ", "upon a time"]


def spelled(request: Request) -> list[str]:
    """Spell a prompt segment by segment, a picture as the word."""
    return [TOKENIZER.decode(segment.token_ids) if isinstance(segment, TextSegment) else "picture" for segment in request.segments]


def tokens(request: Request, text: str) -> list[list[Output]]:
    """Return one step for each token of ``text``, scored when the request asks for it."""
    steps: list[list[Output]] = []
    for token_id in TOKENIZER.encode(text):
        scored = None if request.sampling.logprobs is None else TokenLogprob(token_id, -0.25, [(token_id, -0.25), (0, -1.5)])
        steps.append([TokenOutput(request.request_id, token_id, scored)])
    return steps


def picture(request: Request, index: int) -> list[list[Output]]:
    """Return the steps of one picture: three denoise steps, the last with the picture itself."""
    progress: list[Output] = [ProgressOutput(request.request_id, index, step, 3) for step in (1, 2, 3)]
    wanted = progress if request.wants_progress else []
    return [*([output] for output in wanted), [ImageOutput(request.request_id, index, red_picture())]]


def hello(request: Request) -> list[list[Output]]:
    """Answer with a few words."""
    return [*tokens(request, "hello wörld 🙂"), [TextClosed(request.request_id), finish(request)]]


def story(request: Request) -> list[list[Output]]:
    """Answer with words, a picture, words and a picture."""
    closed: list[Output] = [TextClosed(request.request_id)]
    first, second = STORY
    return [
        *tokens(request, first), closed, *picture(request, 0), *tokens(request, second), closed, *picture(request, 1), [finish(request)],
    ]  # fmt: skip


def endless(request: Request) -> list[list[Output]]:
    """Say one letter and then nothing until released."""
    return [*tokens(request, "w"), [], [finish(request, FinishReason.LENGTH)]]


@dataclass(frozen=True, slots=True)
class ServerEvent:
    event_id: str
    payload: str


def server_events(lines: Iterable[str]) -> list[ServerEvent]:
    """Read server-sent events; comments are left out."""
    events: list[ServerEvent] = []
    event_id = ""
    for line in lines:
        if line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("data: "):
            events.append(ServerEvent(event_id, line[6:]))
    return events


def stream_events(http: httpx.Client, body: dict[str, object]) -> list[ServerEvent]:
    """Post a streaming chat and return its events."""
    with http.stream(
        "POST", "/v1/chat/completions", json={"model": "tiny_a", "messages": [user("hi")], "stream": True, **body}
    ) as response:
        assert response.status_code == 200, response.read()
        return server_events(response.iter_lines())


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def error_of(response: httpx.Response) -> dict[str, str | None]:
    """Return the error object of a response."""
    error: dict[str, str | None] = json.loads(response.content)["error"]
    return error
