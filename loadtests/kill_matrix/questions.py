"""The streams of a cell: words, held words, words with pictures, pictures alone; seeds fixed, so that every run must say the same."""

from __future__ import annotations

import json

from loadtests.kill_matrix.client import Question

SIZE = "64x64"
NUM_TOKENS = 24
NUM_STEPS = 8


def questions(cell: str, count: int) -> list[Question]:
    """Return ``count`` mixed questions whose keys are used in this cell alone."""
    kinds = (_words, _story, _picture, _held)
    return [Question(f"{number}", f"{cell}-{number}", kinds[number % len(kinds)](number)) for number in range(count)]


def _words(number: int) -> dict[str, object]:
    return _body(number, "Tell me about a circle.", temperature=1.0, max_completion_tokens=NUM_TOKENS, ignore_eos=True)


def _story(number: int) -> dict[str, object]:
    image = {"size": SIZE, "num_inference_steps": NUM_STEPS, "max_images": 2, "progress": True}
    return _body(number, "A red circle, then a blue square.", modalities=["text", "image"], max_completion_tokens=NUM_TOKENS, image=image)


def _picture(number: int) -> dict[str, object]:
    return _body(number, "a green triangle", modalities=["image"], image={"size": SIZE, "num_inference_steps": NUM_STEPS})


def _held(number: int) -> dict[str, object]:
    schema = {"type": "object", "properties": {"count": {"type": "integer"}, "ok": {"type": "boolean"}}, "required": ["count", "ok"]}
    held = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    return _body(number, "How many circles?", temperature=1.0, max_completion_tokens=NUM_TOKENS, response_format=held)


def _body(number: int, text: str, **fields: object) -> dict[str, object]:
    return {
        "model": "plait",
        "messages": [{"role": "user", "content": text}],
        "seed": 1000 + number,
        "stream": True,
        "stream_options": {"include_usage": True},
        **fields,
    }


def meaning(payload: str) -> str:
    """Return what a payload says, without what differs from run to run: the answer's id and time, what a cache saved."""
    if payload == "[DONE]":
        return payload
    chunk = json.loads(payload)
    usage = chunk.get("usage") or {}
    usage.get("prompt_tokens_details", {}).pop("cached_tokens", None)
    return json.dumps({name: value for name, value in chunk.items() if name not in ("id", "created")}, sort_keys=True)
