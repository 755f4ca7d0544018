"""Every honoured field of a request of the Responses API has its effect: seen from outside, on a real server, engine and checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest
from openai.types.responses import Response, ResponseUsage

from server.api.field_table import Treatment
from server.api.response_fields import RESPONSE_FIELDS
from tests.server.picture_files import picture_uri

LAMP = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False}
FUNCTIONS = [{"type": "function", "name": "lamp", "parameters": LAMP}]
DRAW = {"type": "image_generation", "num_inference_steps": 2, "max_images": 2}
PICTURE = [{"role": "user", "content": [{"type": "input_image", "image_url": picture_uri(112, 112)}]}]
LONG = "once upon a time there was a red cat " * 8


class Asker:
    """Asks small questions of one server."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def post(self, **fields: object) -> httpx.Response:
        body = {"model": "tiny_a", "input": "tell a story", "max_output_tokens": 16, **fields}
        return self.http.post("/v1/responses", json=body)

    def response(self, **fields: object) -> Response:
        answer = self.post(**fields)
        assert answer.status_code == 200, answer.text
        return Response.model_validate_json(answer.content)

    def usage(self, **fields: object) -> ResponseUsage:
        usage = self.response(**fields).usage
        assert usage is not None
        return usage

    def kinds(self, **fields: object) -> list[str]:
        return [item.type for item in self.response(**fields).output]

    def text(self, **fields: object) -> str:
        return self.response(**fields).output_text

    def is_kept(self, **fields: object) -> bool:
        return self.http.get(f"/v1/responses/{self.response(**fields).id}").status_code == 200


def wild(ask: Asker, **fields: object) -> str:
    """Ask for what is drawn almost evenly, but for ``fields``."""
    return ask.text(temperature=2, seed=3, **fields)


def varies(ask: Asker, **penalty: object) -> bool:
    """Sixty-four of the likeliest tokens, at most: fewer of them are alike where repeating costs something."""
    plain, penalised = (scored_tokens(ask, max_output_tokens=64, **fields) for fields in ({}, penalty))
    return len(set(penalised)) > len(set(plain))


def scored_tokens(ask: Asker, **fields: object) -> list[str]:
    items = [item for item in ask.response(top_logprobs=0, **fields).output if item.type == "message"]
    texts = [part for item in items for part in item.content if part.type == "output_text"]
    return [str(entry.bytes) for text in texts for entry in text.logprobs or []]


def num_scored(ask: Asker, **fields: object) -> list[int]:
    """Return how many alternatives each scored token is shown with."""
    items = [item for item in ask.response(**fields).output if item.type == "message"]
    texts = [part for item in items for part in item.content if part.type == "output_text"]
    return [len(entry.top_logprobs) for text in texts for entry in text.logprobs or []]


def keeps_accounts_apart(ask: Asker, name: str) -> bool:
    """A prompt sent twice is found in the cache by its own user alone."""

    def cached(user: str) -> int:
        return ask.usage(input=LONG, **{name: f"{name}-{user}"}).input_tokens_details.cached_tokens

    cached("ann-of-responses")
    return cached("ann-of-responses") > 0 and cached("bob-of-responses") == 0


def goes_on(ask: Asker) -> bool:
    first = ask.response()
    return ask.usage(previous_response_id=first.id).input_tokens > ask.usage().input_tokens


def calls(ask: Asker, **fields: object) -> list[str]:
    fields = {"tools": FUNCTIONS, "temperature": 1, "seed": 1, "max_output_tokens": 400, **fields}
    return [kind for kind in ask.kinds(**fields) if kind == "function_call"]


def in_json(ask: Asker) -> bool:
    form = {"format": {"type": "json_schema", "name": "lamp", "schema": LAMP}}
    return set(json.loads(ask.text(text=form, temperature=2, seed=1, max_output_tokens=100))) == {"on"}


def num_pictures(ask: Asker, **fields: object) -> int:
    return ask.kinds(tools=[DRAW], **fields).count("image_generation_call")


EFFECTS: dict[str, Callable[[Asker], bool]] = {
    "input": lambda ask: ask.usage(input=LONG).input_tokens > ask.usage().input_tokens,
    "model": lambda ask: ask.post(model="another").status_code == 404,
    "instructions": lambda ask: ask.usage(instructions="be brief").input_tokens > ask.usage().input_tokens,
    "tools": lambda ask: num_pictures(ask) == 2 and "image_generation_call" not in ask.kinds(),
    "tool_choice": lambda ask: bool(calls(ask, tool_choice="required")) and not calls(ask, tool_choice="none"),
    "parallel_tool_calls": lambda ask: len(calls(ask, tool_choice="required", parallel_tool_calls=False)) == 1,
    "max_tool_calls": lambda ask: (num_pictures(ask), num_pictures(ask, max_tool_calls=1)) == (2, 1),
    "text": in_json,
    "temperature": lambda ask: wild(ask) != ask.text(),
    "top_p": lambda ask: wild(ask, top_p=1e-6) == ask.text(),
    "top_k": lambda ask: wild(ask, top_k=1) == ask.text(),
    "min_p": lambda ask: wild(ask, min_p=1) == ask.text(),
    "structured_outputs": lambda ask: wild(ask, structured_outputs={"regex": "cat|dog"}) in ("cat", "dog"),
    "presence_penalty": lambda ask: varies(ask, presence_penalty=2),
    "frequency_penalty": lambda ask: varies(ask, frequency_penalty=2),
    "repetition_penalty": lambda ask: varies(ask, repetition_penalty=2),
    "max_output_tokens": lambda ask: ask.usage(max_output_tokens=2).output_tokens == 2 < ask.usage().output_tokens,
    "include": lambda ask: bool(num_scored(ask, include=["message.output_text.logprobs"])) and not num_scored(ask),
    "top_logprobs": lambda ask: set(num_scored(ask, top_logprobs=3)) == {3},
    "metadata": lambda ask: ask.response(metadata={"run": "7"}).metadata == {"run": "7"},
    "previous_response_id": goes_on,
    "store": lambda ask: ask.is_kept() and not ask.is_kept(store=False),
    "stream": lambda ask: ask.post(stream=True).headers["content-type"].startswith("text/event-stream"),
    "background": lambda ask: ask.response(background=True).status == "queued",
    "user": lambda ask: keeps_accounts_apart(ask, "user"),
    "safety_identifier": lambda ask: keeps_accounts_apart(ask, "safety_identifier"),
    "seed": lambda ask: ask.text(temperature=1, seed=1) == ask.text(temperature=1, seed=1) != ask.text(temperature=1, seed=2),
    "think": lambda ask: "reasoning" in ask.kinds(tools=[DRAW], tool_choice="required", think=True),
}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"instructions": "be brief", "input": [{"role": "user", "content": LONG}, {"role": "assistant", "content": "so"}]},
        {"tools": FUNCTIONS},
        {"input": PICTURE},
        {"input": PICTURE, "tools": [DRAW]},
    ],
    ids=["words", "turns", "functions", "picture", "picture drawn from"],
)
def test_a_prompt_is_counted_as_its_usage_says(http: httpx.Client, fields: dict[str, object]) -> None:
    count = http.post("/v1/responses/input_tokens", json={"input": "tell a story", **fields}).json()
    assert count["input_tokens"] == Asker(http).usage(**fields).input_tokens


@pytest.mark.parametrize("name", EFFECTS)
def test_an_honoured_field_has_its_effect(http: httpx.Client, name: str) -> None:
    assert EFFECTS[name](Asker(http))


def test_no_honoured_field_is_left_out() -> None:
    assert set(EFFECTS) == {rule.name for rule in RESPONSE_FIELDS.rules if rule.treatment is Treatment.HONOURED}
