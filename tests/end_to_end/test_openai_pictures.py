"""The official client's Images and Responses APIs against a real server and engine; every event to the letter of its official type."""

from __future__ import annotations

import base64
import io
from typing import TypeVar

import pytest
from openai import OpenAI
from openai.types import ImageEditStreamEvent, ImageGenStreamEvent
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseImageGenCallPartialImageEvent,
    ResponseIncompleteEvent,
    ResponseStreamEvent,
)
from openai.types.responses.response_output_item import ImageGenerationCall
from PIL import Image
from pydantic import BaseModel, TypeAdapter

from tests.server.picture_files import encoded_picture

EventT = TypeVar("EventT")

MODEL = "tiny_a"
STEPS = {"num_inference_steps": 5, "seed": 1}
GENERATION_EVENT: TypeAdapter[ImageGenStreamEvent] = TypeAdapter(ImageGenStreamEvent)
EDIT_EVENT: TypeAdapter[ImageEditStreamEvent] = TypeAdapter(ImageEditStreamEvent)
RESPONSE_EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def client(server_url: str) -> OpenAI:
    return OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0, timeout=120)


def opened(encoded: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded or "", validate=True)))


def is_exact(event: BaseModel, adapter: TypeAdapter[EventT]) -> bool:
    """Whether what came fits the official type without any conversion."""
    return adapter.validate_json(event.model_dump_json(exclude_unset=True), strict=True) == event


def pictures_of(response: Response) -> list[Image.Image]:
    return [opened(item.result) for item in response.output if isinstance(item, ImageGenerationCall)]


def drawing_tool(**options: int) -> dict[str, object]:
    return {"type": "image_generation", "size": "64x48", **STEPS, **options}


def test_a_prompt_becomes_the_same_picture_whole_and_streamed(client: OpenAI) -> None:
    whole = client.images.generate(prompt="a red cat", model=MODEL, size="64x48", extra_body=STEPS)
    stream = client.images.generate(prompt="a red cat", model=MODEL, size="64x48", stream=True, partial_images=3, extra_body=STEPS)
    events = list(stream)

    assert [event.type.rpartition(".")[2] for event in events] == ["partial_image"] * 3 + ["completed"]
    assert all(is_exact(event, GENERATION_EVENT) for event in events)
    assert whole.data is not None and events[-1].b64_json == whole.data[0].b64_json
    assert opened(events[-1].b64_json).size == (64, 48)
    assert {opened(event.b64_json).format for event in events[:3]} == {"WEBP"}
    assert len({event.b64_json for event in events}) == 4


def test_pictures_are_edited_whole_and_streamed(client: OpenAI) -> None:
    pictures = [("a.png", encoded_picture(64, 64)), ("b.png", encoded_picture(48, 64, colour="blue"))]
    whole = client.images.edit(image=pictures, prompt="make it blue", model=MODEL, n=2, output_format="webp", extra_body=STEPS)
    stream = client.images.edit(image=pictures[0], prompt="make it blue", model=MODEL, stream=True, partial_images=1, extra_body=STEPS)
    events = list(stream)

    assert whole.data is not None and [opened(picture.b64_json).format for picture in whole.data] == ["WEBP"] * 2
    assert whole.data[0].b64_json != whole.data[1].b64_json
    assert whole.usage is not None and whole.usage.input_tokens_details.image_tokens > 0
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    assert all(is_exact(event, EDIT_EVENT) for event in events)


def test_a_response_brings_words_and_pictures_in_order_with_partial_pictures(client: OpenAI) -> None:
    body = {"tools": [drawing_tool(max_images=2, partial_images=2)]}
    events = list(
        client.responses.create(model=MODEL, input="tell a story of the red cat", max_output_tokens=12, stream=True, extra_body=body)
    )

    assert all(is_exact(event, RESPONSE_EVENT) for event in events)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    partial = [event for event in events if isinstance(event, ResponseImageGenCallPartialImageEvent)]
    assert [event.partial_image_index for event in partial] == [0, 1, 0, 1]
    assert {opened(event.partial_image_b64).size for event in partial} == {(64, 48)}
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent | ResponseIncompleteEvent)
    assert [picture.size for picture in pictures_of(last.response)] == [(64, 48)] * 2
    assert last.response.output == client.responses.retrieve(last.response.id).output


def test_a_response_is_continued_and_edits_its_picture(client: OpenAI) -> None:
    body = {"tools": [drawing_tool()], "tool_choice": "required"}
    first = client.responses.create(model=MODEL, input="a red cat", extra_body=body)
    second = client.responses.create(model=MODEL, input="make it blue", previous_response_id=first.id, extra_body=body)

    (drawn,), (edited,) = pictures_of(first), pictures_of(second)
    assert edited.size == (64, 48) and edited.tobytes() != drawn.tobytes()
    assert second.usage is not None and first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens


def test_chat_shows_previews_beside_its_choices(client: OpenAI) -> None:
    image = {"size": "64x48", "num_inference_steps": 5, "partial_images": 2}
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "a cat"}], stream=True, extra_body={"modalities": ["image"], "image": image}
    )
    previews = [chunk.model_extra["image_progress"] for chunk in stream if chunk.model_extra and "image_progress" in chunk.model_extra]

    assert [(shown["partial_image_index"], shown["step"], shown["num_steps"]) for shown in previews] == [(0, 1, 4), (1, 2, 4)]
    assert {opened(shown["partial_image_b64"]).size for shown in previews} == {(64, 48)}
