"""The official `openai` client against a real server and engine: answers of words and pictures, whole and streamed, and their replay."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam
from PIL import Image
from pydantic import TypeAdapter

from tests.end_to_end.conftest import CHECKPOINT

MODEL = "tiny_a"
PLAITED: dict[str, object] = {"modalities": ["text", "image"], "image": {"size": "64x48", "num_inference_steps": 4, "max_images": 2}}
"""Text, picture, text, picture, text: the rule outside the model for a family that never begins a picture by itself."""
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "tell a story of the red cat"}]
EOS_ID = json.loads((CHECKPOINT / "cases.json").read_text())["new_token_ids"]["eos_token_id"]
PLAITED_CALL = {
    "model": MODEL,
    "messages": MESSAGES,
    "temperature": 1.0,
    "seed": 1,
    "max_completion_tokens": 300,
    "logit_bias": {str(EOS_ID): 2.0},
    "extra_body": PLAITED,
}
"""Random weights end a text once in 300 tokens; the bias ends each within a few, so that the answer stops by itself. The client's
stream helper raises on an answer that was cut off."""
Parts = TypeAdapter(list[dict[str, object]])


@pytest.fixture
def client(server_url: str) -> OpenAI:
    return OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0, timeout=120)


def ask(client: OpenAI) -> ChatCompletion:
    return client.chat.completions.create(**PLAITED_CALL)  # type: ignore[call-overload, no-any-return]


def extra(message: object, name: str) -> list[dict[str, object]]:
    """Read a list the official types do not know."""
    return Parts.validate_python(json.loads(message.model_dump_json())[name])  # type: ignore[attr-defined]


def decoded(images: list[dict[str, object]]) -> list[Image.Image]:
    urls = [str(entry["image_url"]["url"]) for entry in images]  # type: ignore[index]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))) for url in urls]


def test_an_answer_holds_two_pictures_in_order(client: OpenAI) -> None:
    message = ask(client).choices[0].message

    assert isinstance(message.content, str)
    assert [image.size for image in decoded(extra(message, "images"))] == [(64, 48)] * 2
    parts = extra(message, "content_parts")
    assert [part["type"] for part in parts] == ["text", "image_url", "text", "image_url", "text"]
    assert "".join(str(part["text"]) for part in parts if part["type"] == "text") == message.content


def test_a_stream_brings_the_same_answer(client: OpenAI) -> None:
    whole = ask(client).choices[0].message
    text, images = "", []
    for chunk in client.chat.completions.create(**PLAITED_CALL, stream=True):  # type: ignore[call-overload]
        for choice in chunk.choices:
            text += choice.delta.content or ""
            images += json.loads(choice.delta.model_dump_json()).get("images", [])

    assert text == whole.content
    assert images == extra(whole, "images")


def test_the_stream_helper_puts_the_answer_together(client: OpenAI) -> None:
    whole = ask(client).choices[0].message
    with client.chat.completions.stream(**PLAITED_CALL) as stream:  # type: ignore[arg-type]
        final = stream.get_final_completion().choices[0].message

    assert final.content == whole.content
    assert extra(final, "images") == extra(whole, "images")
    assert extra(final, "content_parts") == extra(whole, "content_parts")


def test_the_transcript_is_accepted_as_history(client: OpenAI, http: httpx.Client) -> None:
    first = ask(client)
    answer = json.loads(first.choices[0].message.model_dump_json(exclude_none=True))
    body = {"model": MODEL, "messages": [*MESSAGES, answer, {"role": "user", "content": "and then ?"}], "max_completion_tokens": 4}

    second = http.post("/v1/chat/completions", json={**body, "modalities": ["text", "image"], "image": {"num_inference_steps": 3}})

    assert second.status_code == 200, second.text
    assert first.usage is not None
    assert second.json()["usage"]["prompt_tokens_details"]["image_tokens"] > 0
    assert second.json()["usage"]["prompt_tokens"] > first.usage.prompt_tokens


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(client: OpenAI) -> None:
    def answer(seed: int) -> str:
        body = {"modalities": ["image"], "image": {"size": "32x32", "num_inference_steps": 4}}
        completion = client.chat.completions.create(model=MODEL, messages=MESSAGES, seed=seed, extra_body=body)
        return str(extra(completion.choices[0].message, "images"))

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_a_picture_can_be_read_and_edited(client: OpenAI, http: httpx.Client) -> None:
    url = extra(ask(client).choices[0].message, "images")[0]["image_url"]["url"]  # type: ignore[index]
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "make the sky green"}]
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_completion_tokens": 4}

    read = http.post("/v1/chat/completions", json=body)
    edited = http.post("/v1/chat/completions", json={**body, "modalities": ["image"], "image": {"num_inference_steps": 3}})

    assert read.status_code == 200 and "images" not in read.json()["choices"][0]["message"]
    assert [image.size for image in decoded(edited.json()["choices"][0]["message"]["images"])] == [(80, 64)]


def pages_used(http: httpx.Client) -> float:
    line = next(line for line in http.get("/metrics").text.splitlines() if line.startswith("plait_pages_used "))
    return float(line.split()[1])


def wait_until_pages_are_free(http: httpx.Client) -> None:
    deadline = time.monotonic() + 10
    while pages_used(http) > 0:
        assert time.monotonic() < deadline, "pages are still held"
        time.sleep(0.02)


def engine_steps(http: httpx.Client) -> float:
    line = next(line for line in http.get("/metrics").text.splitlines() if line.startswith("plait_engine_steps_total "))
    return float(line.split()[1])


def test_a_disconnect_in_mid_picture_frees_its_pages_at_once(http: httpx.Client) -> None:
    """Eight pictures of 1,000 steps take long; the pages are free, and the engine idle, a moment after the client is gone."""
    body = {
        "model": MODEL,
        "messages": MESSAGES,
        "stream": True,
        "modalities": ["image"],
        "image": {"size": "128x128", "num_inference_steps": 1000, "progress": True, "max_images": 8},
    }
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        seen = ""
        for line in response.iter_text():
            seen += line
            if seen.count("image_progress") >= 3:
                break
        assert pages_used(http) > 0

    wait_until_pages_are_free(http)
    steps = engine_steps(http)
    time.sleep(0.3)
    assert engine_steps(http) == steps, "the engine still works for a client that is gone"


@pytest.mark.slow
async def test_sixteen_streams_of_mixed_kinds_all_finish(server_url: str) -> None:
    kinds: list[dict[str, object]] = [
        {"modalities": ["text"]},
        {"modalities": ["image"], "image": {"size": "64x64", "num_inference_steps": 5}},
        {"modalities": ["image"], "image": {"size": "32x96", "num_inference_steps": 8, "text_scale": 1.0}},
        PLAITED,
    ]

    async def run(client: AsyncOpenAI, number: int) -> tuple[str, str, int]:
        text, reason, images = "", "", 0
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_completion_tokens=9, seed=number // 4, stream=True, extra_body=kinds[number % 4]
        )
        async for chunk in stream:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reason = choice.finish_reason or reason
                images += len(json.loads(choice.delta.model_dump_json()).get("images", []))
        return text, reason, images

    async with AsyncOpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0, timeout=240) as client:
        answers = await asyncio.gather(*(run(client, number) for number in range(16)))

    assert [images for _, _, images in answers] == [0, 1, 1, 2] * 4
    assert all(reason in ("stop", "length") for _, reason, _ in answers)
    texts = [text for text, _, _ in answers]
    assert texts[0] == texts[4] == texts[8] == texts[12], "greedy text does not depend on who shares the batch"
