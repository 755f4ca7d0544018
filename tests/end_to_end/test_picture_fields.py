"""Every honoured option of the pictures in a chat and in a response has its effect: on a real server, engine and checkpoint."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import httpx
import pytest
from PIL import Image

from server.api.field_table import FieldTable, Treatment
from server.api.picture_fields import PICTURE_FIELDS, TOOL_FIELDS
from tests.server.picture_files import picture_uri

LEAST: dict[str, object] = {"size": "48x32", "num_inference_steps": 4, "seed": 1, "text_scale": 4, "interval": [0, 1], "max_images": 1}
FORESEEN: dict[str, object] = {"num_inference_steps": 12, "step_cache": 3}
WORDS = {"type": "text", "text": "a red cat"}
USER: dict[str, object] = {"role": "user", "content": [WORDS]}
EDIT: dict[str, object] = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture_uri(colour="red")}}, WORDS]}


class ChatDrawer:
    """Asks the chat of one server for small pictures."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def post(self, *, message: dict[str, object] = USER, stream: bool = False, **options: object) -> httpx.Response:
        image = {name: value for name, value in {**LEAST, **options}.items() if value is not None}
        body = {"model": "tiny_a", "messages": [message], "modalities": ["image"], "stream": stream, "image": image}
        answer = self.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        return answer

    def urls(self, **options: object) -> list[str]:
        return [image["image_url"]["url"] for image in self.post(**options).json()["choices"][0]["message"]["images"]]  # type: ignore[arg-type]

    def file(self, **options: object) -> bytes:
        return base64.b64decode(self.urls(**options)[0].partition("base64,")[2])

    def picture(self, **options: object) -> Image.Image:
        return Image.open(io.BytesIO(self.file(**options)))

    def changes(self, message: dict[str, object] = USER, **options: object) -> bool:
        """Whether the picture is another than without ``options``, where without them it is always the same."""
        plain = self.file(message=message)
        return plain == self.file(message=message) != self.file(message=message, **options)


OF_CHAT: dict[str, Callable[[ChatDrawer], bool]] = {
    "size": lambda draw: draw.picture(size="32x64").size == (32, 64),
    "num_inference_steps": lambda draw: draw.changes(num_inference_steps=9),
    "guidance": lambda draw: draw.changes(guidance="illume"),
    "text_scale": lambda draw: draw.changes(text_scale=1),
    "image_scale": lambda draw: draw.changes(EDIT, image_scale=5),
    "interval": lambda draw: draw.changes(interval=[0.9, 1]),
    "renorm": lambda draw: draw.changes(renorm="channel"),
    "renorm_min": lambda draw: draw.changes(renorm_min=1),
    "shift": lambda draw: draw.changes(shift=10),
    "negative_prompt": lambda draw: draw.changes(negative_prompt="once upon a time"),
    "seed": lambda draw: draw.changes(seed=2),
    "step_cache": lambda draw: draw.file(**FORESEEN) != draw.file(num_inference_steps=12),
    "step_cache_order": lambda draw: draw.file(**FORESEEN) != draw.file(**FORESEEN, step_cache_order=0),
    "step_cache_first": lambda draw: draw.file(**FORESEEN) != draw.file(**FORESEEN, step_cache_first=2),
    "max_images": lambda draw: (len(draw.urls()), len(draw.urls(max_images=2))) == (1, 2),
    "progress": lambda draw: (
        [draw.post(stream=True, progress=on).text.count("image_progress") > 0 for on in (True, False)] == [True, False]
    ),
    "partial_images": lambda draw: draw.post(stream=True, partial_images=2).text.count('"partial_image_b64"') == 2,
    "output_format": lambda draw: [draw.picture(output_format=name).format for name in ("webp", "jpeg")] == ["WEBP", "JPEG"],
    "response_format": lambda draw: draw.urls(response_format="url")[0].startswith("http"),
}


class ToolDrawer:
    """Asks the Responses API of one server for small pictures."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def post(self, *, stream: bool = False, type: str = "image_generation", **options: object) -> httpx.Response:
        least = {name: value for name, value in LEAST.items() if name != "interval"}
        tool = {name: value for name, value in {"type": type, **least, **options}.items() if value is not None}
        body = {"model": "tiny_a", "input": "a red cat", "tools": [tool], "tool_choice": "required", "stream": stream}
        return self.http.post("/v1/responses", json={**body, "max_output_tokens": 16})

    def files(self, **options: object) -> list[bytes]:
        answer = self.post(**options)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        return [base64.b64decode(item["result"]) for item in answer.json()["output"] if item["type"] == "image_generation_call"]

    def picture(self, **options: object) -> Image.Image:
        return Image.open(io.BytesIO(self.files(**options)[0]))

    def changes(self, **options: object) -> bool:
        """Whether the picture is another than without ``options``, where without them it is always the same."""
        plain = self.files()
        return plain == self.files() != self.files(**options)

    def num_bytes(self, compression: int) -> int:
        return len(self.files(output_format="jpeg", output_compression=compression)[0])


OF_TOOL: dict[str, Callable[[ToolDrawer], bool]] = {
    "type": lambda draw: draw.post(type="web_search").json()["error"]["param"] == "tools[0].type",
    "model": lambda draw: bool(draw.files(model="tiny_a")) and draw.post(model="another").json()["error"]["param"] == "tools[0].model",
    "size": lambda draw: draw.picture(size="32x64").size == (32, 64),
    "quality": lambda draw: draw.changes(quality="low", num_inference_steps=None),
    "background": lambda draw: draw.post(background="transparent").json()["error"]["param"] == "tools[0].background",
    "output_format": lambda draw: [draw.picture(output_format=name).format for name in ("webp", "jpeg")] == ["WEBP", "JPEG"],
    "output_compression": lambda draw: draw.num_bytes(5) < draw.num_bytes(95),
    "partial_images": lambda draw: draw.post(stream=True, partial_images=2).text.count('"partial_image_index"') == 2,
    "max_images": lambda draw: (len(draw.files()), len(draw.files(max_images=2))) == (1, 2),
    "num_inference_steps": lambda draw: draw.changes(num_inference_steps=9),
    "text_scale": lambda draw: draw.changes(text_scale=1),
    "image_scale": lambda draw: draw.changes(image_scale=5),
    "negative_prompt": lambda draw: draw.changes(negative_prompt="once upon a time"),
    "seed": lambda draw: draw.changes(seed=2),
    "step_cache": lambda draw: draw.files(**FORESEEN) != draw.files(num_inference_steps=12),
    "step_cache_order": lambda draw: draw.files(**FORESEEN) != draw.files(**FORESEEN, step_cache_order=0),
    "step_cache_first": lambda draw: draw.files(**FORESEEN) != draw.files(**FORESEEN, step_cache_first=2),
}


@pytest.mark.parametrize("name", OF_CHAT)
def test_an_option_of_a_chat_s_pictures_has_its_effect(http: httpx.Client, name: str) -> None:
    assert OF_CHAT[name](ChatDrawer(http))


@pytest.mark.parametrize("name", OF_TOOL)
def test_an_option_of_the_tool_that_draws_has_its_effect(http: httpx.Client, name: str) -> None:
    assert OF_TOOL[name](ToolDrawer(http))


@pytest.mark.parametrize(("table", "effects"), [(PICTURE_FIELDS, OF_CHAT), (TOOL_FIELDS, OF_TOOL)], ids=["chat", "tool"])
def test_no_honoured_option_is_left_out(table: FieldTable, effects: dict[str, object]) -> None:
    assert set(effects) == {rule.name for rule in table.rules if rule.treatment is Treatment.HONOURED}
