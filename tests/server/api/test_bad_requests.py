"""Bad input: each row a 4xx that names the field and the bound, before the engine hears of it, while a neighbour goes on untouched."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.messages import Request
from server.settings import Settings
from tests.server.api.chats import endless, error_of, hello, stream_events, user
from tests.server.picture_files import encoded_picture, picture_uri, png_header, uri
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import Output, ScriptedEngine

PNG = encoded_picture(64, 64)
STRICT = Settings(max_picture_pixels=100_000)
HI = [user("hi")]


def by_seed(request: Request) -> list[list[Output]]:
    """Wait when the seed says so: the neighbour of the bad requests."""
    return endless(request) if request.sampling.seed == 1 else hello(request)


@pytest.fixture(scope="module")
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(by_seed), STRICT) as running:
        yield running


def picture(url: object) -> list[dict[str, object]]:
    return [user([{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": url}}])]


URL = "messages[0].content[1].image_url.url"
IMAGES = {"modalities": ["text", "image"]}
ANSWER = {"role": "assistant", "content": "a"}

SCHEMA = "response_format.json_schema.schema"


def schema_format(schema: object) -> dict[str, object]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


def nested(depth: int) -> dict[str, object]:
    return {} if depth == 0 else {"items": nested(depth - 1)}


ROWS: list[tuple[dict[str, object], str | None, str, str]] = [
    # body (over a valid one), param, code, words of the message
    ({"messages": picture("data:image/png;base64,@@@")}, URL, "invalid_image", "base64"),
    ({"messages": picture(uri(b"not a picture at all"))}, URL, "invalid_image", "PNG, JPEG, WebP or GIF"),
    ({"messages": picture(uri(PNG[:-20]))}, URL, "invalid_image", "truncated"),
    ({"messages": picture(uri(png_header(30_000, 30_000)))}, URL, "image_too_large", "100000"),
    ({"messages": picture(picture_uri(400, 300))}, URL, "image_too_large", "100000"),
    ({"messages": picture(picture_uri(500, 10))}, URL, "image_too_large", "32 times"),
    ({"messages": picture("https://example.com/a.png")}, URL, "unsupported_parameter", "does not fetch"),
    ({"messages": picture(7)}, URL, "invalid_value", "string"),
    ({"messages": picture(picture_uri()) * 17}, "messages", "invalid_value", "at most 16"),
    ({"messages": [user([{"type": "input_audio"}])]}, "messages[0].content[0]", "invalid_value", "'text' or 'image_url'"),
    ({"messages": [user([{"type": "text", "text": "x", "colour": 1}])]}, "messages[0].content[0].colour", "unknown_parameter", "unknown"),
    ({"messages": [user("x" * 1_000_001)]}, "messages[0].content", "invalid_value", "1000000"),
    ({"messages": []}, "messages", "invalid_value", "at least 1"),
    ({"messages": [user("a")] * 513}, "messages", "invalid_value", "at most 512"),
    ({"messages": [user("")]}, "messages", "invalid_value", "empty"),
    ({"messages": "hello"}, "messages", "invalid_value", "list"),
    ({"messages": [{"role": "critic", "content": "x"}]}, "messages[0]", "invalid_value", "'assistant'"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "invalid_value", "required"),
    ({"messages": [{**ANSWER, "content_parts": [{"type": "text", "text": "b"}]}]}, "messages[0].content", "invalid_value", "differs"),
    (
        {"messages": [{**ANSWER, "content": "", "content_parts": [{"type": "image_url", "image_index": 0}]}]},
        "messages[0].content_parts[0].image_index",
        "invalid_value",
        "no entry 0",
    ),
    ({"messages": [user("word " * 3000)]}, "messages", "context_length_exceeded", "2048"),
    ({"max_completion_tokens": 2048}, "messages", "context_length_exceeded", "2048"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value", "1"),
    ({"max_tokens": 10**30}, "max_tokens", "invalid_value", "1000000"),
    ({"temprature": 1}, "temprature", "unknown_parameter", "temperature"),
    ({"temperature": 2.5}, "temperature", "invalid_value", "2"),
    ({"temperature": float("nan")}, "temperature", "invalid_value", "finite"),
    ({"top_p": float("inf")}, "top_p", "invalid_value", "finite"),
    ({"top_p": -0.1}, "top_p", "invalid_value", "0"),
    ({"temperature": "warm"}, "temperature", "invalid_value", "number"),
    ({"n": 5}, "n", "invalid_value", "4"),
    ({"n": True}, "n", "invalid_value", "integer"),
    ({"seed": 2**63}, "seed", "invalid_value", str(2**63)),
    ({"stop": ["a"] * 5}, "stop", "invalid_value", "4"),
    ({"stop": [""]}, "stop[0]", "invalid_value", "1"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value", "token ids"),
    ({"logit_bias": {"320": 1}}, "logit_bias", "invalid_value", "319"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1", "invalid_value", "100"),
    ({"top_logprobs": 3}, "top_logprobs", "invalid_value", "logprobs"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "invalid_value", "20"),
    ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value", "json_schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "invalid_value", "expected"),
    ({"response_format": {"type": "json_object"}, **IMAGES}, "response_format", "unsupported_parameter", "no pictures"),
    ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos", "unsupported_parameter", "form"),
    ({"response_format": {"type": "json_object"}, "min_tokens": 3}, "min_tokens", "unsupported_parameter", "form"),
    ({"structured_outputs": {}}, "structured_outputs", "invalid_value", "exactly one"),
    ({"structured_outputs": {"choice": ["a"], "regex": "a"}}, "structured_outputs", "invalid_value", "exactly one"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "invalid_value", "at least 1"),
    ({"structured_outputs": {"choice": [""]}}, "structured_outputs.choice[0]", "invalid_value", "at least 1"),
    ({"structured_outputs": {"choice": ["a"]}, **IMAGES}, "structured_outputs.choice", "unsupported_parameter", "no pictures"),
    ({"structured_outputs": {"regex": "a{1,9"}}, "structured_outputs.regex", "invalid_value", "regular expression"),
    ({"structured_outputs": {"regex": "a(?=b)"}}, "structured_outputs.regex", "invalid_value", "look-around"),
    ({"structured_outputs": {"regex": "limit\\b"}}, "structured_outputs.regex", "invalid_value", "word boundaries"),
    ({"structured_outputs": {"regex": "a\\"}}, "structured_outputs.regex", "invalid_value", "regular expression"),
    ({"structured_outputs": {"regex": "[^\\s\\S]"}}, "structured_outputs.regex", "invalid_value", "regular expression"),
    ({"structured_outputs": {"json": {"type": "nothing"}}}, "structured_outputs.json", "invalid_value", "schema"),
    ({"structured_outputs": {"grammar": "root ::= a"}}, "structured_outputs.grammar", "unsupported_parameter", "choice"),
    ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}, "response_format", "invalid_value", "together"),
    ({"structured_outputs": {"regex": "a{1000000}|b"}}, "structured_outputs.regex", "invalid_value", "too complex"),
    (schema_format({"type": "strin"}), SCHEMA, "invalid_value", "enforced"),
    (schema_format({"not": {}}), SCHEMA, "unsupported_parameter", "'not'"),
    (schema_format({"$ref": "http://localhost/x"}), SCHEMA, "invalid_value", "enforced"),
    (schema_format({"$ref": "#"}), SCHEMA, "invalid_value", "enforced"),
    (
        schema_format({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        SCHEMA,
        "invalid_value",
        "enforced",
    ),
    (schema_format({"type": "string", "pattern": "(?=x)y"}), SCHEMA, "unsupported_parameter", "'(?=x)y'"),
    (schema_format({"type": "string", "pattern": "a" * 513}), SCHEMA, "invalid_value", "512"),
    (schema_format({"enum": [str(number) for number in range(1001)]}), SCHEMA, "invalid_value", "1000"),
    (schema_format({"description": "x" * 70_000}), SCHEMA, "invalid_value", "65536"),
    (schema_format(nested(40)), SCHEMA, "invalid_value", "32"),
    (schema_format({"properties": {f"p{number}": {} for number in range(5000)}}), SCHEMA, "invalid_value", "5000"),
    ({"audio": {"voice": "alloy"}}, "audio", "unsupported_parameter", "audio"),
    ({"modalities": ["text", "audio"]}, "modalities[1]", "invalid_value", "'image'"),
    ({"modalities": []}, "modalities", "invalid_value", "1"),
    ({"modalities": ["text", "text"]}, "modalities", "invalid_value", "once"),
    ({"image": {"size": "64x64"}}, "image", "unsupported_parameter", "modalities"),
    ({**IMAGES, "image": {"size": "65x64"}}, "image.size", "invalid_value", "multiples of 16"),
    ({**IMAGES, "image": {"size": "4096x4096"}}, "image.size", "invalid_value", "128"),
    ({**IMAGES, "image": {"size": "big"}}, "image.size", "invalid_value", "1024x768"),
    ({**IMAGES, "image": {"num_inference_steps": 1}}, "image.num_inference_steps", "invalid_value", "2"),
    ({**IMAGES, "image": {"num_timesteps": 20}}, "image.num_timesteps", "unknown_parameter", "num_inference_steps"),
    ({**IMAGES, "image": {"step_cache": 11}}, "image.step_cache", "invalid_value", "10"),
    ({**IMAGES, "image": {"step_cache": 2, "step_cache_order": 7}}, "image.step_cache_order", "invalid_value", "6"),
    ({**IMAGES, "image": {"step_cache_order": 2}}, "image.step_cache_order", "unsupported_parameter", "step_cache of 2"),
    ({**IMAGES, "image": {"guidance_scale": 4}}, "image.guidance_scale", "unknown_parameter", "text_scale"),
    ({**IMAGES, "image": {"text_scale": float("nan")}}, "image.text_scale", "invalid_value", "finite"),
    ({**IMAGES, "image": {"interval": [0.9, 0.1]}}, "image.interval", "invalid_value", "low <= high"),
    ({**IMAGES, "image": {"renorm": "local"}}, "image.renorm", "invalid_value", "text_channel"),
    ({**IMAGES, "image": {"max_images": 17}}, "image.max_images", "invalid_value", "16"),
    ({**IMAGES, "image": {"max_images": 16}, "max_tokens": 2000}, "messages", "context_length_exceeded", "context holds"),
    ({**IMAGES, "image": {"progress": True}}, "image.progress", "unsupported_parameter", "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value", "stream"),
    ({"store": True}, "store", "unsupported_parameter", "not stored"),
    ({"service_tier": "flex"}, "service_tier", "unsupported_parameter", "'default'"),
    ({"model": None}, "model", "invalid_value", "required"),
    ({"model": 7}, "model", "invalid_value", "string"),
    ({"image_config": {}}, "image_config", "unknown_parameter", "'image'"),
    ({"image": {"stepss": 3}}, "image.stepss", "unknown_parameter", "'num_inference_steps'"),
    ({"image": "large"}, "image", "invalid_value", "a JSON object"),
    ({"priority": 1001}, "priority", "invalid_value", "1000"),
]


def post(http: httpx.Client, body: dict[str, object]) -> httpx.Response:
    """Post a body as a careless client would: NaN is written as NaN."""
    headers = {"content-type": "application/json"}
    return http.post("/v1/chat/completions", content=json.dumps({"model": "tiny_a", "messages": HI, **body}), headers=headers)


def assert_is_catalogued(response: httpx.Response) -> None:
    """Assert that an error has OpenAI's shape, is small, and gives nothing away."""
    error = error_of(response)
    assert set(error) == {"message", "type", "param", "code"}
    assert len(response.content) <= 8192
    assert not re.search(r"0x[0-9a-f]{6,}|Traceback|/[a-z]+/[a-z]+\.py|pydantic", response.text)
    assert not re.search(
        r"Input should|should have|Value error|Field required|after validation|valid (string|list|dictionary)", response.text
    )


@pytest.mark.parametrize(("body", "param", "code", "words"), ROWS, ids=[f"{row[1]}-{number}" for number, row in enumerate(ROWS)])
def test_bad_input_is_refused_by_field_and_bound(
    front: RunningFront, body: dict[str, object], param: str | None, code: str, words: str
) -> None:
    num_before = len(front.engine.requests)
    with front.http() as http:
        response = post(http, body)
    assert response.status_code == 400, response.text
    assert_is_catalogued(response)
    error = error_of(response)
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert param is not None and param in (error["message"] or "") and words in (error["message"] or "")
    assert len(front.engine.requests) == num_before, "the engine must not hear of it"


def test_a_neighbour_is_untouched_by_bad_requests() -> None:
    with running_front(ScriptedEngine(by_seed), STRICT) as front, front.http() as http:
        body = {"model": "tiny_a", "messages": HI, "stream": True, "seed": 1}
        with http.stream("POST", "/v1/chat/completions", json=body) as neighbour:
            lines = neighbour.iter_lines()
            while '"content":"w"' not in next(lines):
                pass
            with front.http() as other:
                assert {post(other, row[0]).status_code for row in ROWS[:12]} == {400}
            front.engine.release()
            assert [line for line in lines if line][-1] == "data: [DONE]"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 20_000, "nested"),
        (b'{"messages":' + b"[" * 5_000 + b"]" * 5_000 + b"}", "nested"),
        (b'{"messages":[{"role":"user","content":"\\ud800"}]}', "JSON"),
        (b"[]", "a JSON object"),
        (b'"hello"', "a JSON object"),
    ],
)
def test_what_is_no_json_object_is_refused(front: RunningFront, content: bytes, words: str) -> None:
    with front.http() as http:
        response = http.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400 and words in (error_of(response)["message"] or "")
    assert_is_catalogued(response)


def test_a_body_that_is_not_said_to_be_json_is_refused(front: RunningFront) -> None:
    """A page of another origin can post text/plain without asking the browser; it must not reach the model."""
    with front.http() as http:
        response = http.post(
            "/v1/chat/completions", content=json.dumps({"model": "tiny_a", "messages": HI}), headers={"content-type": "text/plain"}
        )
    assert response.status_code == 415 and error_of(response)["code"] == "unsupported_media_type"


METHODS = {
    "/v1/chat/completions": "POST",
    "/v1/responses/input_tokens": "POST",
    "/v1/responses/resp_0": "DELETE, GET",
    "/v1/streams/x": "DELETE, GET",
    "/v1/models/a": "GET, HEAD",
}


def test_a_wrong_method_is_told_which_methods_there_are(front: RunningFront) -> None:
    with front.http() as http:
        for path, allowed in METHODS.items():
            response = http.request("OPTIONS", path)
            assert (response.status_code, response.headers["allow"]) == (405, allowed)
            assert error_of(response)["code"] == "method_not_allowed"
            assert_is_catalogued(response)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_beyond_the_limit_is_refused(is_chunked: bool) -> None:
    with running_front(ScriptedEngine(hello), Settings(max_body_bytes=100_000)) as front, front.http() as http:
        body = json.dumps({"model": "tiny_a", "messages": [user("x" * 200_000)]}).encode()
        content = iter([body[:90_000], body[90_000:]]) if is_chunked else body
        response = http.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
        assert response.status_code == 413
        assert error_of(response)["code"] == "body_too_large" and "100000" in (error_of(response)["message"] or "")


@pytest.mark.parametrize(
    "piece",
    ['"metadata":{"%d":1},', '"messages":[{},%d],', '"x%d":[[],[[]]],', '"stop":["%d"],', '"a\\\\":"%d",'],
    ids=lambda piece: piece[:9],
)
def test_a_body_of_countless_values_is_refused_before_any_is_made(front: RunningFront, piece: str) -> None:
    """Fifteen megabytes of them took a gigabyte and a half of memory, and other streams waited for seconds."""
    content = "{" + "".join(piece % number for number in range(200_000)) + '"model":"tiny_a"}'
    with front.http() as http:
        response = http.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400 and "262144 values" in str(error_of(response)["message"])


def test_what_stands_in_a_text_is_not_counted(front: RunningFront) -> None:
    content = ',:[{"\\' * 100_000 + "\\"
    with front.http() as http:
        response = http.post("/tokenize", json={"prompt": content, "add_special_tokens": False}, timeout=60)
        back = http.post("/detokenize", json={"tokens": response.json()["tokens"]}, timeout=60)
    assert back.json() == {"prompt": content}


def test_a_long_field_name_is_not_echoed(front: RunningFront) -> None:
    with front.http() as http:
        response = post(http, {"x" * 100_000: 1})
    assert response.status_code == 400
    assert_is_catalogued(response)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=8), values, max_size=3),
    max_leaves=6,
)
FIELDS = ["messages", "temperature", "n", "stop", "image", "modalities", "logit_bias", "stream_options", "seed", "metadata", "foo"]


@given(body=st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, max_size=4))
@settings(max_examples=120)
def test_no_body_makes_the_server_fail(front: RunningFront, body: dict[str, object]) -> None:
    with front.http() as http:
        response = post(http, body)
    assert response.status_code in (200, 400)
    if response.status_code == 400:
        assert_is_catalogued(response)


def test_null_counts_as_left_out(front: RunningFront) -> None:
    with front.http() as http:
        body: dict[str, object] = {"temperature": None, "tools": None, "stop": None, "image": None, "messages": HI}
        assert stream_events(http, body)[-1].payload == "[DONE]"


def test_a_form_that_says_nothing_may_stand_beside_one_that_does(front: RunningFront) -> None:
    """Clients that always send the type of the text could use no other form."""
    form: dict[str, object] = {"structured_outputs": {"choice": ["yes", "no"]}}
    response = {"model": "tiny_a", "input": "hi", "text": {"format": {"type": "text"}}, **form}
    with front.http() as http:
        assert post(http, {"messages": HI, "response_format": {"type": "text"}, **form}).status_code == 200
        assert http.post("/v1/responses", json=response).status_code == 200
