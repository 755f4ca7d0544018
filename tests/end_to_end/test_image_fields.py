"""Every honoured field of a request of the Images API has its effect: seen from outside, on a real server, engine and checkpoint."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable

import httpx
import pytest
from PIL import Image

from server.api.field_table import FieldTable, Treatment
from server.api.image_fields import EDIT_FIELDS, GENERATION_FIELDS
from tests.server.picture_files import picture_uri

RED: dict[str, object] = {"images": [{"image_url": picture_uri(colour="red")}]}
BLUE: dict[str, object] = {"images": [{"image_url": picture_uri(colour="blue")}]}
FORESEEN: dict[str, object] = {"num_inference_steps": 12, "step_cache": 3}
CACHED = re.compile(r"^plait_prompt_tokens_cached_total\{.*\} (\S+)$", re.MULTILINE)


class Drawer:
    """Asks one route of one server for small pictures."""

    def __init__(self, http: httpx.Client, route: str, given: dict[str, object]) -> None:
        self._http = http
        self.route = route
        self._given = given

    def post(self, **fields: object) -> httpx.Response:
        body = {"prompt": "a red cat", "size": "48x32", "num_inference_steps": 4, "seed": 1, **self._given, **fields}
        return self._http.post(self.route, json={name: value for name, value in body.items() if value is not None})

    def entries(self, **fields: object) -> list[dict[str, str]]:
        answer = self.post(**fields)
        assert answer.status_code == 200, answer.text
        entries: list[dict[str, str]] = answer.json()["data"]
        return entries

    def file(self, **fields: object) -> bytes:
        return base64.b64decode(self.entries(**fields)[0]["b64_json"])

    def picture(self, **fields: object) -> Image.Image:
        return Image.open(io.BytesIO(self.file(**fields)))

    def cached(self, **fields: object) -> float:
        """Return how many tokens of a long prompt the server found in its cache."""
        before = self._num_cached()
        self.entries(prompt="once upon a time there was a red cat " * 8, num_inference_steps=2, **fields)
        return self._num_cached() - before

    def _num_cached(self) -> float:
        return sum(float(count) for count in CACHED.findall(self._http.get("/metrics").text))

    def changes(self, **fields: object) -> bool:
        """Whether the picture is another than without ``fields``, where without them it is always the same."""
        plain = self.file()
        return plain == self.file() != self.file(**fields)


def num_partial(draw: Drawer) -> int:
    return draw.post(stream=True, partial_images=2).text.count("partial_image_index")


def keeps_accounts_apart(draw: Drawer, name: str) -> bool:
    """A prompt sent twice is found in the cache by its own user alone."""
    ann, bob = ({name: f"{name}-{user}-{draw.route}"} for user in ("ann", "bob"))
    return (draw.cached(**ann), draw.cached(**bob)) == (0, 0) and draw.cached(**ann) > 0


EFFECTS: dict[str, Callable[[Drawer], bool]] = {
    "prompt": lambda draw: draw.changes(prompt="once upon a time"),
    "model": lambda draw: draw.post(model="another").status_code == 404,
    "n": lambda draw: len({entry["b64_json"] for entry in draw.entries(n=3)}) == 3,
    "size": lambda draw: (draw.picture().size, draw.picture(size="32x64").size) == ((48, 32), (32, 64)),
    "quality": lambda draw: draw.changes(quality="low", num_inference_steps=None),
    "background": lambda draw: draw.post(background="opaque").json()["background"] == "opaque" and draw.picture().mode == "RGB",
    "output_format": lambda draw: [draw.picture(output_format=name).format for name in ("webp", "jpeg")] == ["WEBP", "JPEG"],
    "output_compression": lambda draw: (
        len(draw.file(output_format="jpeg", output_compression=5)) < len(draw.file(output_format="jpeg", output_compression=95))
    ),
    "response_format": lambda draw: draw.entries(response_format="url")[0]["url"].startswith("http"),
    "stream": lambda draw: draw.post(stream=True).headers["content-type"].startswith("text/event-stream"),
    "partial_images": lambda draw: num_partial(draw) == 2,
    "seed": lambda draw: draw.changes(seed=2),
    "num_inference_steps": lambda draw: draw.changes(num_inference_steps=9),
    "text_scale": lambda draw: draw.changes(text_scale=1),
    "image_scale": lambda draw: draw.changes(image_scale=5),
    "negative_prompt": lambda draw: draw.changes(negative_prompt="once upon a time"),
    "step_cache": lambda draw: draw.file(**FORESEEN) != draw.file(num_inference_steps=12),
    "step_cache_order": lambda draw: draw.file(**FORESEEN) != draw.file(**FORESEEN, step_cache_order=0),
    "step_cache_first": lambda draw: draw.file(**FORESEEN) != draw.file(**FORESEEN, step_cache_first=2),
    "user": lambda draw: keeps_accounts_apart(draw, "user"),
    "safety_identifier": lambda draw: keeps_accounts_apart(draw, "safety_identifier"),
}
OF_EDITS: dict[str, Callable[[Drawer], bool]] = EFFECTS | {"images": lambda draw: draw.changes(**BLUE)}


@pytest.mark.parametrize("name", EFFECTS)
def test_an_honoured_field_of_a_generation_has_its_effect(http: httpx.Client, name: str) -> None:
    assert EFFECTS[name](Drawer(http, "/v1/images/generations", {}))


@pytest.mark.parametrize("name", OF_EDITS)
def test_an_honoured_field_of_an_edit_has_its_effect(http: httpx.Client, name: str) -> None:
    assert OF_EDITS[name](Drawer(http, "/v1/images/edits", RED))


@pytest.mark.parametrize(("table", "effects"), [(GENERATION_FIELDS, EFFECTS), (EDIT_FIELDS, OF_EDITS)], ids=["generations", "edits"])
def test_no_honoured_field_is_left_out(table: FieldTable, effects: dict[str, object]) -> None:
    assert set(effects) == {rule.name for rule in table.rules if rule.treatment is Treatment.HONOURED}
