"""The Images API over a scripted engine: what each field does, what is refused and by which name, both ways to send an edit."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI
from openai.types import ImagesResponse

from server.messages import ImageSegment, TextSegment
from server.settings import Settings
from tests.server.api.chats import TOKENIZER, endless, error_of, hello
from tests.server.api.pictures import drawing, opened
from tests.server.picture_files import encoded_picture, picture_uri
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

MODEL = "tiny_a"
DRAW: dict[str, object] = {"model": MODEL, "prompt": "a red circle"}
EDIT: dict[str, object] = {"model": MODEL, "prompt": "make it blue", "images": [{"image_url": picture_uri()}]}
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(drawing), Settings(max_body_bytes=1 << 20)) as running:
        yield running


@pytest.fixture
def client(front: RunningFront) -> OpenAI:
    front.engine.requests.clear()
    return front.openai()


@pytest.fixture
def http(front: RunningFront) -> Iterator[httpx.Client]:
    front.engine.requests.clear()
    with front.http() as client:
        yield client


def only_picture(answer: ImagesResponse) -> str:
    assert answer.data is not None
    (picture,) = answer.data
    assert picture.b64_json is not None
    return picture.b64_json


def test_a_prompt_becomes_a_picture(client: OpenAI, front: RunningFront) -> None:
    answer = client.images.generate(prompt="a red circle", model=MODEL, size="64x32")

    assert opened(only_picture(answer)).size == (64, 32)
    assert (answer.size, answer.output_format, answer.quality, answer.background) == ("64x32", "png", "medium", "opaque")
    assert answer.usage is not None and answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    (request,) = front.engine.requests
    assert request.segments == [TextSegment(TOKENIZER.encode("a red circle"))]


def test_n_pictures_differ_in_seed_alone(client: OpenAI, front: RunningFront) -> None:
    answer = client.images.generate(prompt="a red circle", model=MODEL, n=3, extra_body={"seed": 5})

    assert answer.data is not None and len(answer.data) == 3
    assert [request.image.seed for request in front.engine.requests] == [5, 6, 7]


@pytest.mark.parametrize(
    ("quality", "num_timesteps", "shown"),
    [
        ("low", 25, "low"),
        ("medium", 50, "medium"),
        ("auto", 50, "medium"),
        ("standard", 50, "medium"),
        ("high", 75, "high"),
        ("hd", 75, "high"),
    ],
)
def test_quality_is_a_number_of_steps(http: httpx.Client, front: RunningFront, quality: str, num_timesteps: int, shown: str) -> None:
    answer = http.post(GENERATIONS, json={**DRAW, "quality": quality}).json()

    assert front.engine.requests[0].image.num_timesteps == num_timesteps
    assert answer["quality"] == shown


def test_our_own_fields_reach_the_engine(client: OpenAI, front: RunningFront) -> None:
    own = {"num_inference_steps": 7, "text_scale": 3.0, "image_scale": 1.5, "negative_prompt": "blue", "seed": 9}
    answer = client.images.generate(prompt="a red circle", model=MODEL, extra_body=own)

    image = front.engine.requests[0].image
    assert (image.num_timesteps, image.text_scale, image.image_scale, image.seed) == (7, 3.0, 1.5, 9)
    assert image.negative_token_ids == TOKENIZER.encode("blue")
    assert answer.quality is None


def test_a_negative_prompt_that_says_nothing_is_none(client: OpenAI, front: RunningFront) -> None:
    """Forms send the field empty when nobody has filled it in; beside a guidance that is off it was refused."""
    client.images.generate(prompt="a red circle", model=MODEL, extra_body={"negative_prompt": "", "text_scale": 1.0})
    assert front.engine.requests[0].image.negative_token_ids is None


def test_an_edit_as_json_takes_what_a_generation_takes_of_moderation(http: httpx.Client) -> None:
    body = {"model": MODEL, "prompt": "make it red", "images": [{"image_url": picture_uri()}], "moderation": "low"}
    answer = http.post("/v1/images/edits", json=body)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("output_format", "name"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")])
def test_a_picture_comes_in_the_format_asked_for(http: httpx.Client, output_format: str, name: str) -> None:
    answer = http.post(GENERATIONS, json={**DRAW, "output_format": output_format}).json()

    assert opened(answer["data"][0]["b64_json"]).format == name
    assert answer["output_format"] == output_format


def test_compression_makes_a_smaller_file(http: httpx.Client) -> None:
    def size_at(percent: int) -> int:
        answer = http.post(GENERATIONS, json={**DRAW, "output_format": "jpeg", "output_compression": percent}).json()
        return len(answer["data"][0]["b64_json"])

    assert size_at(5) < size_at(100)


def test_a_stream_brings_rough_pictures_then_the_picture(client: OpenAI) -> None:
    stream = client.images.generate(prompt="a red circle", model=MODEL, size="64x32", stream=True, partial_images=2)
    first, second, last = list(stream)

    assert first.type == second.type == "image_generation.partial_image"
    assert [first.partial_image_index, second.partial_image_index] == [0, 1]
    assert (opened(first.b64_json).format, first.output_format) == ("WEBP", "webp")
    assert last.type == "image_generation.completed"
    assert (opened(last.b64_json).size, last.size, last.output_format) == ((64, 32), "64x32", "png")
    assert last.usage.total_tokens > 0


def test_a_stream_of_several_pictures_tells_them_apart(http: httpx.Client) -> None:
    with http.stream("POST", GENERATIONS, json={**DRAW, "n": 2, "stream": True, "partial_images": 1}) as response:
        events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]

    assert sorted((event["index"], event["type"].rpartition(".")[2]) for event in events) == [
        (0, "completed"), (0, "partial_image"), (1, "completed"), (1, "partial_image"),
    ]  # fmt: skip


def test_events_carry_their_type_as_name(http: httpx.Client) -> None:
    with http.stream("POST", GENERATIONS, json={**DRAW, "stream": True, "partial_images": 1}) as response:
        names = [line for line in response.iter_lines() if line.startswith("event: ")]

    assert names == ["event: image_generation.partial_image", "event: image_generation.completed"]


@pytest.mark.parametrize("files", [[("image", "a.png")], [("image[]", "a.png"), ("image[]", "../../etc/passwd")]])
def test_pictures_are_edited_in_the_order_sent(http: httpx.Client, front: RunningFront, files: list[tuple[str, str]]) -> None:
    parts = [(name, (filename, encoded_picture(32 * (place + 1), 32), "image/png")) for place, (name, filename) in enumerate(files)]
    answer = http.post(EDITS, data={"prompt": "make it blue", "model": MODEL, "n": "2", "seed": "4"}, files=parts)

    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == 2
    segments = front.engine.requests[0].segments
    assert [type(segment) for segment in segments] == [*[ImageSegment] * len(files), TextSegment]
    assert front.engine.requests[0].image.seed == 4


def test_the_official_client_edits_and_streams(client: OpenAI) -> None:
    whole = client.images.edit(image=("a.png", encoded_picture(32, 32)), prompt="make it blue", model=MODEL)
    stream = client.images.edit(
        image=[("a.png", encoded_picture(32, 32))], prompt="make it blue", model=MODEL, stream=True, partial_images=1
    )

    assert opened(only_picture(whole)).format == "PNG"
    assert [event.type for event in stream] == ["image_edit.partial_image", "image_edit.completed"]


def test_an_edit_in_json_is_the_same_edit(http: httpx.Client, front: RunningFront) -> None:
    http.post(EDITS, json={**EDIT, "seed": 1})
    http.post(EDITS, data={"prompt": "make it blue", "model": MODEL, "seed": "1"}, files={"image": encoded_picture(32, 32)})

    as_json, as_form = front.engine.requests
    assert as_json.segments == as_form.segments and as_json.image == as_form.image


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("prompt", "", "invalid_value"),
        ("prompt", "a" * 32_001, "invalid_value"),
        ("n", 0, "invalid_value"),
        ("n", 11, "invalid_value"),
        ("n", "2", "invalid_value"),
        ("size", "large", "invalid_value"),
        ("size", "33x64", "invalid_value"),
        ("size", "99999x99999", "invalid_value"),
        ("quality", "best", "invalid_value"),
        ("background", "transparent", "unsupported_parameter"),
        ("output_format", "gif", "unsupported_parameter"),
        ("output_format", "svg", "unsupported_parameter"),
        ("output_format", "bmp", "invalid_value"),
        ("output_compression", 50, "unsupported_parameter"),
        ("partial_images", 2, "unsupported_parameter"),
        ("partial_images", 4, "invalid_value"),
        ("frame_count", 3, "unsupported_parameter"),
        ("complexity", "low", "unsupported_parameter"),
        ("guidance_scale", 3, "unknown_parameter"),
        ("num_inference_steps", 1, "invalid_value"),
        ("text_scale", float("nan"), "invalid_value"),
        ("model", "dall-e-3", "model_not_found"),
    ],
)
@pytest.mark.parametrize("path", [GENERATIONS, EDITS])
def test_what_cannot_be_done_is_refused_by_the_fields_name(http: httpx.Client, path: str, field: str, value: object, code: str) -> None:
    body = json.dumps({**(DRAW if path == GENERATIONS else EDIT), field: value})
    answer = http.post(path, content=body, headers={"content-type": "application/json"})

    assert (error_of(answer)["param"], error_of(answer)["code"]) == (field, code)
    assert answer.status_code == (404 if code == "model_not_found" else 400)


@pytest.mark.parametrize(
    ("field", "code"), [("mask", "unsupported_parameter"), ("input_fidelity", "unsupported_parameter"), ("colour", "unknown_parameter")]
)
def test_an_edit_is_refused_what_it_cannot_heed(http: httpx.Client, field: str, code: str) -> None:
    form = http.post(EDITS, data={"prompt": "p", "model": MODEL}, files={"image": encoded_picture(32, 32), field: encoded_picture(32, 32)})

    assert (form.status_code, error_of(form)["param"], error_of(form)["code"]) == (400, field, code)


def test_an_edit_needs_a_picture(http: httpx.Client) -> None:
    answer = http.post(EDITS, data={"prompt": "p", "model": MODEL}, files={"other": b""})
    alone = http.post(EDITS, json=DRAW)

    assert (error_of(alone)["param"], error_of(answer)["param"]) == ("images", "image")
    assert answer.status_code == alone.status_code == 400


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"--x\r\n", "multipart/form-data", 400),
        (b"no form at all", "multipart/form-data; boundary=x", 400),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\nv\r\n--x--\r\n", "multipart/form-data; boundary=x", 400),
        (b"prompt=a", "application/x-www-form-urlencoded", 415),
        (b"", "text/plain", 415),
    ],
)
def test_what_is_no_form_is_refused(http: httpx.Client, content: bytes, content_type: str, status: int) -> None:
    answer = http.post(EDITS, content=content, headers={"content-type": content_type})

    assert answer.status_code == status, answer.text
    assert error_of(answer)["type"] == "invalid_request_error"


def test_a_form_is_bounded_in_parts_and_bytes(http: httpx.Client) -> None:
    fields = {"prompt": "p", "model": MODEL}
    many = http.post(EDITS, data=fields, files=[("image", (f"{n}.png", encoded_picture(32, 32))) for n in range(18)])
    one_too_many = http.post(EDITS, data=fields, files=[("image", (f"{n}.png", encoded_picture(32, 32))) for n in range(17)])
    crowded = http.post(EDITS, data={**fields, **{f"f{n}": "" for n in range(70)}}, files={"image": encoded_picture(32, 32)})
    long = http.post(EDITS, data={**fields, "prompt": "a" * 200_000}, files={"image": encoded_picture(32, 32)})
    large = http.post(EDITS, data=fields, files={"image": bytes(2 << 20)})

    assert [answer.status_code for answer in (many, one_too_many, crowded, long, large)] == [400, 400, 400, 400, 413]
    assert error_of(one_too_many)["param"] == "image"


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n broken", b"<svg/>"])
def test_a_file_that_is_no_picture_is_refused(http: httpx.Client, content: bytes) -> None:
    answer = http.post(EDITS, data={"prompt": "p", "model": MODEL}, files={"image": content})

    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_image")


@pytest.mark.parametrize(("name", "num_files", "param"), [("image", 1, "image"), ("image[]", 1, "image"), ("image[]", 2, "image[1]")])
def test_a_bad_file_of_a_form_is_named_as_the_form_has_it(http: httpx.Client, name: str, num_files: int, param: str) -> None:
    """It used to be called ``images[0].image_url``, which no form has."""
    files = [(name, content) for content in [encoded_picture(32, 32), b"no picture"][-num_files:]]
    error = error_of(http.post(EDITS, data={"prompt": "p", "model": MODEL}, files=files))

    assert error["param"] == param and str(error["message"]).startswith(f"{param}: ")


def test_a_field_sent_twice_is_refused(http: httpx.Client) -> None:
    answer = http.post(EDITS, data={"prompt": ["a", "b"], "model": MODEL}, files={"image": encoded_picture(32, 32)})

    assert (answer.status_code, error_of(answer)["param"]) == (400, "prompt")


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_that_leaves_ends_its_picture(is_stream: bool) -> None:
    with running_front(ScriptedEngine(endless)) as front, front.http() as http:
        with pytest.raises(httpx.ReadTimeout):
            http.post(GENERATIONS, json={**DRAW, "stream": is_stream}, timeout=0.3)
        front.engine.wait_until(lambda: len(front.engine.aborted) == 1)


def test_an_answer_without_its_picture_is_an_error() -> None:
    with running_front(ScriptedEngine(hello)) as front, front.http() as http:
        answer = http.post(GENERATIONS, json=DRAW)

    assert (answer.status_code, error_of(answer)["code"]) == (500, "aborted")
