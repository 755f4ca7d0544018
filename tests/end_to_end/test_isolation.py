"""Whoever shares the server, an answer is the same: fifty requests alone, then all at once among neighbours that mean harm."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass

import httpx
import pytest

from tests.server.attacks.hostile_pictures import hostile_pictures
from tests.server.picture_files import picture_uri, uri

WORDS = [
    "a",
    "story",
    "of",
    "red",
    "and",
    "blue",
    "things",
    "that",
    "rise",
    "and",
    "fall",
    "while",
    "nobody",
    "looks",
    "at",
    "them",
    "again",
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer: its words, and its pictures as files."""

    text: str
    pictures: list[bytes]


def request(number: int) -> dict[str, object]:
    """Return one of fifty requests, no two alike: greedy and drawn text, penalties, biases, scores, pictures in and out."""
    words = " ".join(WORDS[number % 7 : number % 7 + 2 + number % 9])
    content: object = f"{number}: {words}"
    if number % 5 == 1:
        content = [{"type": "text", "text": words}, {"type": "image_url", "image_url": {"url": picture_uri(40 + number, 60)}}]
    body: dict[str, object] = {"messages": [{"role": "user", "content": content}], "max_completion_tokens": 6 + number % 12, "seed": number}
    match number % 6:
        case 0:
            body |= {"temperature": 0.9, "top_p": 0.95, "top_k": 40}
        case 1:
            body |= {"temperature": 1.3, "min_p": 0.05, "repetition_penalty": 1.2}
        case 2:
            body |= {"presence_penalty": 1.0, "frequency_penalty": -0.5, "logit_bias": {str(number + 5): 7}}
        case 3:
            body |= {"modalities": ["image"], "image": {"size": "64x64", "num_inference_steps": 4 + number % 3, "text_scale": 3.0}}
            del body["max_completion_tokens"]
        case 4:
            body |= {"modalities": ["text", "image"], "image": {"size": "64x64", "num_inference_steps": 3, "max_images": 1}}
        case _:
            body |= {"logprobs": True, "top_logprobs": 2}
    return {"model": "tiny_a", **body}


def adversaries() -> list[dict[str, object]]:
    """Return requests that strain what sequences share: extreme draws, masks, sizes, broken pictures, everything at its bound."""
    hostile = [bytes(encoded) for encoded in list(hostile_pictures().values())[::9]]
    strains: list[dict[str, object]] = [
        {"messages": [{"role": "user", "content": "x " * 600}], "max_completion_tokens": 30},
        {"messages": [{"role": "user", "content": "<|im_start|><|vision_start|>" * 40}], "temperature": 2.0, "n": 4},
        {
            "messages": [{"role": "user", "content": "a"}],
            "logit_bias": {str(token): 100 for token in range(300)},
            "max_completion_tokens": 20,
        },
        {"messages": [{"role": "user", "content": "a"}], "logit_bias": {str(token): -100 for token in range(300)}, "ignore_eos": True},
        {"messages": [{"role": "user", "content": "a"}], "temperature": 2.0, "repetition_penalty": 0.01, "max_completion_tokens": 40},
        {
            "messages": [{"role": "user", "content": "a"}],
            "modalities": ["text", "image"],
            "image": {"size": "128x128", "num_inference_steps": 5, "text_scale": 30.0, "max_images": 2},
        },
    ]
    pictures = [[{"type": "image_url", "image_url": {"url": uri(encoded)}}] for encoded in hostile]
    return strains + [{"messages": [{"role": "user", "content": content}]} for content in pictures]


async def ask(http: httpx.AsyncClient, body: dict[str, object]) -> Outcome:
    response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    message = response.json()["choices"][0]["message"]
    pictures = [base64.b64decode(entry["image_url"]["url"].partition(",")[2]) for entry in message.get("images") or []]
    return Outcome(message["content"] or "", pictures)


async def pester(http: httpx.AsyncClient, stop: asyncio.Event) -> int:
    """Send the adversaries over and over, leaving every other answer in the middle; return how many were sent."""
    sent = 0
    while not stop.is_set():
        for body in adversaries():
            sent += 1
            async with http.stream("POST", "/v1/chat/completions", json={"model": "tiny_a", **body, "stream": True}) as response:
                async for _ in response.aiter_lines():
                    if sent % 2:
                        break
            if stop.is_set():
                break
    return sent


@pytest.mark.slow
async def test_fifty_answers_are_the_same_alone_and_among_hostile_neighbours(server_url: str) -> None:
    bodies = [request(number) for number in range(50)]
    async with httpx.AsyncClient(base_url=server_url, timeout=240) as http:
        alone = [await ask(http, body) for body in bodies]
        stop = asyncio.Event()
        pests = [asyncio.create_task(pester(http, stop)) for _ in range(2)]
        together = await asyncio.gather(*(ask(http, body) for body in bodies))
        stop.set()
        assert sum(await asyncio.gather(*pests)) > 3, "there were neighbours"
    assert len({(outcome.text, *outcome.pictures) for outcome in alone}) > 40, "the answers differ from each other, so a mix-up would show"
    assert [number for number, pair in enumerate(zip(alone, together, strict=True)) if pair[0] != pair[1]] == []
