"""Every series is counted by somebody: a mixed run with a takeover, a client that comes back and a store that goes away touches all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadtests.fleet.box import Fleet, FleetPlan, running_fleet
from loadtests.fleet.processes import wait_until
from loadtests.fleet.replica import Replica
from loadtests.kill_matrix.durable_fleet import durable_plan, random_model
from tests.server.test_tracing import TRACE_ID, TRACEPARENT, Collector, collecting

RARE = frozenset({"plait_preemptions", "plait_queue_refusals", "plait_quarantined", "plait_draining"})
"""Want pages for fewer than run, a queue that fills between two looks at it, a request that ends engine after engine, and a scrape in
the moment between the order to stop and the end, when streams go to other replicas."""

WAIT_S = 60.0
MOST_CROWDS = 10
"""On a busy machine a whole crowd may come and go between two scrapes."""
TELL = [{"role": "user", "content": "Tell me about a circle."}]
WORDS = {"model": "plait", "messages": TELL, "max_completion_tokens": 24, "ignore_eos": True, "stream": True}
LONG = {**WORDS, "max_completion_tokens": 200}
STORY = {
    **WORDS,
    "modalities": ["text", "image"],
    "image": {"size": "64x64", "num_inference_steps": 8, "max_images": 2, "progress": True, "partial_images": 2},
}


@dataclass
class Seen:
    """What scrapes have shown so far: every family, and those of which something was above zero at one time."""

    families: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)

    def scrape(self, replica: Replica) -> None:
        for family in text_string_to_metric_families(httpx.get(replica.metrics_url, timeout=10).text):
            self.families.add(family.name)
            if any(sample.value > 0 for sample in family.samples):
                self.touched.add(family.name)


@dataclass(frozen=True, slots=True)
class MixedRun:
    seen: Seen
    taken_over: list[int]
    """Ids of the events of the stream that changed its owner."""
    collector: Collector


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MixedRun]:
    directory, seen = tmp_path_factory.mktemp("mixed"), Seen()
    with collecting() as collector, running_fleet(directory / "fleet", plan(directory, collector)) as fleet:
        for _ in range(MOST_CROWDS):
            crowd(fleet.replicas[1], seen)
            if "plait_requests_waiting" in seen.touched:
                break
        refused_and_repeated(fleet.replicas[1])
        taken_over = through_a_takeover(fleet, seen)
        without_the_store(fleet, seen)
        for replica in fleet.replicas:
            seen.scrape(replica)
        fleet.replicas[1].service.stop()
        yield MixedRun(seen, taken_over, collector)


def plan(directory: Path, collector: Collector) -> FleetPlan:
    return durable_plan(2, random_model(directory / "plait"), settings=("--otlp-endpoint", collector.url))


def ask(replica: Replica, body: dict[str, object], **headers: str) -> int:
    return httpx.post(f"{replica.url}/v1/chat/completions", json=body, headers=headers, timeout=WAIT_S).status_code


def crowd(replica: Replica, seen: Seen) -> None:
    """More at once than the replica works on, words and pictures, looked at all the while."""
    asking = [threading.Thread(target=ask, args=(replica, body)) for body in [STORY, WORDS] * 4]
    for one in asking:
        one.start()
    while any(one.is_alive() for one in asking):
        seen.scrape(replica)


def refused_and_repeated(replica: Replica) -> None:
    assert ask(replica, {**WORDS, "n": 0}) == 400
    assert [ask(replica, WORDS, **{"Idempotency-Key": "again"}) for _ in range(2)] == [200, 200]
    ask(replica, {**LONG, "stream": False}, **{"X-Request-Timeout": "0.05"})


def through_a_takeover(fleet: Fleet, seen: Seen) -> list[int]:
    """Stop the owner in the middle of an answer, read the rest from the other, and let the owner find out that it has lost it."""
    owner, survivor = fleet.replicas
    (owner.fault_dir / "decode.hold").touch()
    with httpx.stream("POST", f"{owner.url}/v1/chat/completions", json=LONG, headers={"traceparent": TRACEPARENT}) as response:
        stream_id = response.headers["x-stream-id"]
        wait_until(lambda: not (owner.fault_dir / "decode.hold").exists(), WAIT_S, "the engine did not come to the first token")
        seen.scrape(owner)
        owner.service.signal(signal.SIGSTOP)
    ids = read_to_the_end(survivor, stream_id)
    owner.service.signal(signal.SIGCONT)
    wait_until(lambda: "plait_fenced_writes_total 0.0" not in httpx.get(owner.metrics_url).text, WAIT_S, "no write was fenced")
    return ids


def read_to_the_end(replica: Replica, stream_id: str) -> list[int]:
    with httpx.stream("GET", f"{replica.url}/v1/streams/{stream_id}", headers={"Last-Event-ID": "0"}, timeout=WAIT_S) as response:
        lines = list(response.iter_lines())
    assert "data: [DONE]" in lines, lines[-5:]
    return [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]


def without_the_store(fleet: Fleet, seen: Seen) -> None:
    """Redis stands still for a while: the server goes on, and says so."""
    assert fleet.redis is not None
    fleet.redis.service.signal(signal.SIGSTOP)
    try:
        assert ask(fleet.replicas[1], WORDS) == 200
        seen.scrape(fleet.replicas[1])
    finally:
        fleet.redis.service.signal(signal.SIGCONT)


@pytest.mark.slow
def test_every_series_is_counted(mixed_run: MixedRun) -> None:
    assert mixed_run.seen.families - mixed_run.seen.touched - RARE == set()
    assert len(mixed_run.seen.touched) > 40


def test_an_answer_that_another_server_finishes_is_one_trace(mixed_run: MixedRun) -> None:
    """Its client's own trace: the generation of the survivor belongs to it, though all that the survivor had was the store's record."""
    assert mixed_run.taken_over == list(range(1, len(mixed_run.taken_over) + 1)) and len(mixed_run.taken_over) > 100
    ours = [span for span in mixed_run.collector.spans if span.trace_id.hex() == TRACE_ID]
    assert "chat plait" in {span.name for span in ours}
