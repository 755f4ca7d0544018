"""An answer in a fixed form whose server is killed in the middle: the survivor's grammar stands where the dead one's stood."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import pytest

from loadtests.fleet.box import running_fleet
from loadtests.fleet.processes import wait_until
from loadtests.fleet.replica import Replica
from loadtests.kill_matrix.durable_fleet import durable_plan

COLOURS = ["red", "green", "blue", "yellow"]
SCHEMA = {
    "type": "object",
    "properties": {"colours": {"type": "array", "items": {"enum": COLOURS}, "minItems": 5, "maxItems": 5}, "many": {"type": "boolean"}},
    "required": ["colours", "many"],
    "additionalProperties": False,
}
BODY = {
    "model": "plait",
    "messages": [{"role": "user", "content": "Which colours?"}],
    "modalities": ["text"],
    "response_format": {"type": "json_schema", "json_schema": {"name": "colours", "schema": SCHEMA, "strict": True}},
    "max_completion_tokens": 200,
    "temperature": 1.0,
    "seed": 7,
    "stream": True,
}
TOKENS_BEFORE_THE_KILL = 3
ARRIVAL_S = 20.0


def contents(response: httpx.Response) -> list[tuple[int, str]]:
    """Return what the events say that come before the connection ends, with their ids."""
    said, event_id = [], 0
    try:
        for line in response.iter_lines():
            if line.startswith("id: "):
                event_id = int(line[4:])
            elif line.startswith("data: {"):
                said += [(event_id, choice["delta"].get("content") or "") for choice in json.loads(line[6:])["choices"]]
    except httpx.HTTPError:
        pass
    return said


def kill_in_the_middle(owner: Replica) -> None:
    """Hold the engine at each of the first tokens, and kill the server at the last of them."""
    armed = owner.fault_dir / "decode.hold"
    for _ in range(TOKENS_BEFORE_THE_KILL):
        wait_until(lambda: not armed.exists(), ARRIVAL_S, "the engine came to no token")
        armed.touch()
    owner.service.signal(signal.SIGKILL)


@pytest.mark.slow
def test_json_of_a_schema_is_finished_to_the_letter_by_a_survivor(tmp_path: Path) -> None:
    with running_fleet(tmp_path / "fleet", durable_plan(2)) as fleet:
        owner, survivor = fleet.replicas
        with httpx.stream("POST", f"{survivor.url}/v1/chat/completions", json=BODY, timeout=60) as response:
            undisturbed = contents(response)
        (owner.fault_dir / "decode.hold").touch()
        with httpx.stream("POST", f"{owner.url}/v1/chat/completions", json=BODY, timeout=60) as response:
            stream_id = response.headers["x-stream-id"]
            kill_in_the_middle(owner)
            before = contents(response)
        last = str(before[-1][0]) if before else "0"
        with httpx.stream("GET", f"{survivor.url}/v1/streams/{stream_id}", headers={"Last-Event-ID": last}, timeout=60) as response:
            after = contents(response)
    assert len(before) >= 2 and len(after) > 2, "it was killed in the middle"
    assert [*before, *after] == undisturbed
    answer = json.loads("".join(text for _, text in undisturbed))
    assert len(answer["colours"]) == 5 and set(answer["colours"]) <= set(COLOURS) and isinstance(answer["many"], bool)
