"""A browser's way of reading, `EventSource`, rides through the death of the server it reads from."""

from __future__ import annotations

import json
import select
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil
import pytest

from loadtests.fleet.box import running_fleet
from loadtests.fleet.replica import Replica
from loadtests.kill_matrix.durable_fleet import durable_plan, random_model
from tests.js.scripts import installed

LONG = {
    "model": "plait",
    "messages": [{"role": "user", "content": "hi"}],
    "max_completion_tokens": 1200,
    "ignore_eos": True,
    "stream": True,
}
SCRIPT_S = 120.0
SLOW_DOWN_S = 0.2
"""How often the engine is held up until the client is there."""


def read_from(replicas: Sequence[Replica]) -> list[Replica]:
    """Return the replicas that hold a client's connection: the reader's, and for a moment that of one who has gone."""
    return [replica for replica in replicas if _has_client(replica)]


def _has_client(replica: Replica) -> bool:
    connections = psutil.Process(replica.service.pid).net_connections()
    return any(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == replica.port for one in connections)


@pytest.mark.slow
def test_the_npm_client_sees_every_event_once_through_a_kill(tmp_path: Path) -> None:
    follower = installed() / "eventsource_resume.mjs"  # before the answer is begun: it takes its time
    with running_fleet(tmp_path / "fleet", durable_plan(2, random_model(tmp_path / "plait"))) as fleet:
        owner = fleet.replicas[0]
        slowed = owner.fault_dir / "decode.hold"
        slowed.touch()
        with httpx.stream("POST", f"{owner.url}/v1/chat/completions", json=LONG, timeout=60) as response:
            stream_id = response.headers["x-stream-id"]
        script = ["node", str(follower), f"{fleet.url}/v1/streams/{stream_id}"]
        with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
            assert client.stderr is not None
            while not select.select([client.stderr], [], [], SLOW_DOWN_S)[0]:
                slowed.touch()
            slowed.touch()
            while len(read := read_from(fleet.replicas)) != 1:
                slowed.touch()
            read[0].service.signal(signal.SIGKILL)
            output, complaints = client.communicate(timeout=SCRIPT_S)
    assert output, complaints
    seen = json.loads(output)
    assert seen["ids"] == [str(number) for number in range(1, len(seen["ids"]) + 1)]
    assert seen["connections"] >= 2 and len(seen["ids"]) > 1000, complaints
