"""``/openapi.json`` says the truth: schemathesis makes requests from it and holds every answer against it."""

from __future__ import annotations

import json
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from jsonschema_rs import meta, validator_for

from tests.server.api.chats import server_events, user
from tests.server.running_front import RunningFront

CONFIG = Path(__file__).with_name("schemathesis.toml")
SCHEMATHESIS = Path(sysconfig.get_path("scripts")) / "schemathesis"
MAX_EXAMPLES = 3
"""For each address and phase; about 20 s in all. A longer run is the same command by hand with another number."""

STREAMS: list[tuple[str, dict[str, object]]] = [
    ("/v1/chat/completions", {"messages": [user("hi")], "stream_options": {"include_usage": True}}),
    ("/v1/responses", {"input": "hi", "tools": [{"type": "image_generation"}]}),
    ("/v1/images/generations", {"prompt": "a cat"}),
]


@pytest.mark.slow
def test_schemathesis_finds_no_failure_with_all_checks(front: RunningFront, tmp_path: Path) -> None:
    command = [str(SCHEMATHESIS), "--config-file", str(CONFIG), "run", f"{front.url}/openapi.json"]
    options = ["--checks", "all", "--phases", "coverage,fuzzing", "--max-examples", str(MAX_EXAMPLES), "--seed", "1", "--no-color"]
    run = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stdout[-8000:]
    assert "passed" in run.stdout


def test_every_schema_is_one_and_every_reference_leads_to_one(front: RunningFront) -> None:
    with front.http() as http:
        response = http.get("/openapi.json")
    schemas = response.json()["components"]["schemas"]
    for schema in schemas.values():
        meta.validate(schema)
    assert set(re.findall(r'"#/components/schemas/(\w+)"', response.text)) <= set(schemas)


@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_every_event_of_a_stream_is_as_described(front: RunningFront, path: str, body: dict[str, object]) -> None:
    with front.http() as http:
        document = http.get("/openapi.json").json()
        with http.stream("POST", path, json={"model": "tiny_a", "stream": True, **body}) as response:
            events = server_events(response.iter_lines())
    described = document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]["schema"]
    *words, content, _ = described["properties"]["data"]["anyOf"]
    schemas = ({**schema, "components": document["components"]} for schema in (described, content["contentSchema"]))
    is_event, is_said = map(validator_for, schemas)
    said = [event.payload for event in events if {"const": event.payload} not in words]
    assert len(said) + len(words) == len(events) > 0
    assert all(is_event.is_valid({"id": event.event_id, "data": event.payload}) for event in events)
    assert all(is_said.is_valid(json.loads(payload)) for payload in said)


def test_every_route_says_what_it_answers_streams_and_errors_included(front: RunningFront) -> None:
    with front.http() as http:
        document = http.get("/openapi.json").json()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert set(chat["responses"]) >= {"200", "400", "401", "404", "408", "413", "415", "429", "500", "503", "504"}
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert chat["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ChatRequest"}
    for path, methods in document["paths"].items():
        for described in methods.values():
            assert "422" not in described["responses"] and {"401", "500"} <= set(described["responses"]), path
