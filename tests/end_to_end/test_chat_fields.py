"""Every honoured field of a chat request has its effect: seen from outside, on a real server, engine and checkpoint."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from loadtests.fleet.replica import served
from server.api.chat_fields import CHAT_FIELDS
from server.api.field_table import Treatment
from tests.end_to_end.conftest import CHECKPOINT, SMALL

Body = dict[str, object]
EOS = str(json.loads((CHECKPOINT / "cases.json").read_text())["new_token_ids"]["eos_token_id"])
SAY_A = {"32": 100}
"""The token of the letter A, whatever the model would rather say."""
END_AT_ONCE = {EOS: 100}
LAMP = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "lamp", "parameters": LAMP}}]
ENDLESS = {"model": "tiny_a", "messages": [{"role": "user", "content": "hi"}], "stream": True, "ignore_eos": True, "max_tokens": 3000}
LONG = [{"role": "user", "content": "once upon a time there was a red cat " * 8}]


class Asker:
    """Asks small questions of one server."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def response(self, fields: Body) -> httpx.Response:
        body = {"model": "tiny_a", "messages": [{"role": "user", "content": "tell a story"}], "max_completion_tokens": 16, **fields}
        return self._http.post("/v1/chat/completions", json={name: value for name, value in body.items() if value is not None})

    def answer(self, **fields: object) -> Body:
        response = self.response(fields)
        assert response.status_code == 200, response.text
        answer: Body = response.json()
        return answer

    def choices(self, **fields: object) -> list[Body]:
        choices = self.answer(**fields)["choices"]
        assert isinstance(choices, list)
        return choices

    def message(self, **fields: object) -> Body:
        message = self.choices(**fields)[0]["message"]
        assert isinstance(message, dict)
        return message

    def text(self, **fields: object) -> str:
        return str(self.message(**fields)["content"])

    def usage(self, **fields: object) -> dict[str, int]:
        usage = self.answer(**fields)["usage"]
        assert isinstance(usage, dict)
        return usage

    def cached(self, **fields: object) -> int:
        details = self.usage(messages=LONG, **fields)["prompt_tokens_details"]
        assert isinstance(details, dict)
        return int(details["cached_tokens"])


def wild(ask: Asker, **fields: object) -> str:
    """Ask for what is drawn almost evenly, but for ``fields``."""
    return ask.text(temperature=2, seed=3, **fields)


def varies(ask: Asker, **penalty: object) -> bool:
    """Sixty-four of the likeliest tokens: fewer of them are alike where repeating costs something."""
    plain, penalised = (scored(ask, ignore_eos=True, max_completion_tokens=64, **fields) for fields in ({}, penalty))
    return len({str(entry["bytes"]) for entry in penalised}) > len({str(entry["bytes"]) for entry in plain})


def is_cut_at_three(ask: Asker, name: str) -> bool:
    fields = {"max_completion_tokens": None, name: 3, "ignore_eos": True}
    return ask.usage(**fields)["completion_tokens"] == 3 and ask.choices(**fields)[0]["finish_reason"] == "length"


def keeps_accounts_apart(ask: Asker, name: str) -> bool:
    """A prompt sent twice is found in the cache by its own user alone."""
    ask.cached(**{name: f"{name}-ann"})
    return ask.cached(**{name: f"{name}-ann"}) > 0 and ask.cached(**{name: f"{name}-bob"}) == 0


def is_streamed(ask: Asker) -> bool:
    return ask.response({"stream": True}).headers["content-type"].startswith("text/event-stream")


def sums_up(ask: Asker) -> bool:
    return '"usage"' in ask.response({"stream": True, "stream_options": {"include_usage": True}}).text


def stops_before(ask: Asker) -> bool:
    whole = ask.text(ignore_eos=True)
    stop = whole[2:4]
    return ask.text(ignore_eos=True, stop=stop) == whole[: whole.index(stop)]


def picture_size(ask: Asker) -> tuple[int, int]:
    images = ask.message(modalities=["image"], image={"size": "48x32", "num_inference_steps": 2})["images"]
    assert isinstance(images, list)
    return Image.open(io.BytesIO(base64.b64decode(images[0]["image_url"]["url"].partition("base64,")[2]))).size


def scored(ask: Asker, **fields: object) -> list[Body]:
    logprobs = ask.choices(logprobs=True, **fields)[0]["logprobs"]
    assert isinstance(logprobs, dict)
    return list(logprobs["content"])


def in_json(ask: Asker) -> bool:
    form = {"type": "json_schema", "json_schema": {"name": "lamp", "schema": LAMP}}
    return set(json.loads(ask.text(response_format=form, temperature=2, seed=1, max_completion_tokens=100))) == {"on"}


def calls(ask: Asker, **fields: object) -> list[Body]:
    made = ask.message(tools=TOOLS, temperature=1, max_completion_tokens=400, **fields).get("tool_calls") or []
    assert isinstance(made, list)
    return made


def num_tokens(ask: Asker, **fields: object) -> int:
    return ask.usage(logit_bias=END_AT_ONCE, **fields)["completion_tokens"]


EFFECTS: dict[str, Callable[[Asker], bool]] = {
    "messages": lambda ask: ask.usage(messages=LONG)["prompt_tokens"] > ask.usage()["prompt_tokens"],
    "model": lambda ask: ask.response({"model": "another"}).status_code == 404,
    "modalities": lambda ask: len(str(ask.message(modalities=["image"], image={"num_inference_steps": 2})["images"])) > 100,
    "stream": is_streamed,
    "stream_options": sums_up,
    "n": lambda ask: len(ask.choices(n=3)) == 3,
    "max_completion_tokens": lambda ask: is_cut_at_three(ask, "max_completion_tokens"),
    "max_tokens": lambda ask: is_cut_at_three(ask, "max_tokens"),
    "temperature": lambda ask: wild(ask) != ask.text(),
    "top_p": lambda ask: wild(ask, top_p=1e-6) == ask.text(),
    "top_k": lambda ask: wild(ask, top_k=1) == ask.text(),
    "min_p": lambda ask: wild(ask, min_p=1) == ask.text(),
    "structured_outputs": lambda ask: wild(ask, structured_outputs={"choice": ["cat", "dog"]}) in ("cat", "dog"),
    "presence_penalty": lambda ask: varies(ask, presence_penalty=2),
    "frequency_penalty": lambda ask: varies(ask, frequency_penalty=2),
    "repetition_penalty": lambda ask: varies(ask, repetition_penalty=2),
    "logit_bias": lambda ask: ask.text(logit_bias=SAY_A) == "A" * 16,
    "logprobs": lambda ask: len(scored(ask, logit_bias=SAY_A)) == 16,
    "top_logprobs": lambda ask: all(len(entry["top_logprobs"]) == 3 for entry in scored(ask, top_logprobs=3)),  # type: ignore[arg-type]
    "seed": lambda ask: ask.text(temperature=1, seed=1) == ask.text(temperature=1, seed=1) != ask.text(temperature=1, seed=2),
    "stop": stops_before,
    "user": lambda ask: keeps_accounts_apart(ask, "user"),
    "safety_identifier": lambda ask: keeps_accounts_apart(ask, "safety_identifier"),
    "metadata": lambda ask: ask.answer(metadata={"run": "7"})["metadata"] == {"run": "7"},
    "response_format": in_json,
    "tools": lambda ask: "lamp" in str(calls(ask, tool_choice="required", seed=1)),
    "tool_choice": lambda ask: bool(calls(ask, tool_choice="required", seed=1)) and not calls(ask, tool_choice="none"),
    "parallel_tool_calls": lambda ask: len(calls(ask, tool_choice="required", parallel_tool_calls=False, seed=1)) == 1,
    "min_tokens": lambda ask: (num_tokens(ask), num_tokens(ask, min_tokens=5)) == (0, 5),
    "ignore_eos": lambda ask: num_tokens(ask, ignore_eos=True) == 16,
    "image": lambda ask: picture_size(ask) == (48, 32),
    "think": lambda ask: bool(ask.message(modalities=["image"], think=True, image={"num_inference_steps": 2}).get("reasoning_content")),
}
NEED_A_SERVER_OF_THEIR_OWN = {"priority"}


@pytest.mark.parametrize("name", EFFECTS)
def test_an_honoured_field_has_its_effect(http: httpx.Client, name: str) -> None:
    assert EFFECTS[name](Asker(http))


def test_no_honoured_field_is_left_out() -> None:
    assert set(EFFECTS) | NEED_A_SERVER_OF_THEIR_OWN == {rule.name for rule in CHAT_FIELDS.rules if rule.treatment is Treatment.HONOURED}


def test_a_request_with_a_lower_priority_number_is_served_earlier() -> None:
    """Two wait behind an answer that holds the only place; the one that came later, but matters more, is served first.

    The other's answer is long, so that which ends first does not hang on whose client wakes first.
    """
    finished: list[str] = []
    with served("--model", str(CHECKPOINT), *SMALL, "--max-running", "1") as server, httpx.Client(base_url=server.url, timeout=60) as http:

        def ask(name: str, priority: int, num_tokens: int) -> None:
            Asker(http).answer(priority=priority, max_completion_tokens=num_tokens, ignore_eos=True)
            finished.append(name)

        with ThreadPoolExecutor() as threads, http.stream("POST", "/v1/chat/completions", json=ENDLESS):
            wait_for_waiting(server.metrics_url, 0)
            threads.submit(ask, "later", 1, 1000)
            wait_for_waiting(server.metrics_url, 1)
            threads.submit(ask, "sooner", -1, 4)
            wait_for_waiting(server.metrics_url, 2)
    assert finished == ["sooner", "later"]


def wait_for_waiting(metrics_url: str, num_waiting: int) -> None:
    """Ask until one request runs and so many wait."""
    for _ in range(1000):
        series = httpx.get(metrics_url).text
        running, waiting = (
            sum(map(float, re.findall(rf"^plait_requests_{kind}\S* (\S+)$", series, re.M))) for kind in ("running", "waiting")
        )
        if (running, waiting) == (1, num_waiting):
            return
    raise AssertionError(series)
