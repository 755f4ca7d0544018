"""A fleet in a box: real replicas behind a real nginx; requests with a common prefix meet, and a rolling restart loses none."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.fleet.box import Fleet, FleetPlan, running_fleet
from loadtests.fleet.core_share import CoreShare
from loadtests.fleet.counts import Counts, hit_rate, imbalance, parse_counts, read_counts
from server.metrics import FrontState, Metrics

CHECKPOINT = Path(__file__).parents[1] / "golden" / "tiny_a"
OPTIONS = ("--model", str(CHECKPOINT), "--num-threads", "1", "--num-pages", "1000")
BODY = {"model": "tiny_a", "modalities": ["text"], "messages": [{"role": "user", "content": "hello"}], "max_completion_tokens": 8}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("box"), FleetPlan(2, OPTIONS)) as running:
        yield running


def ask(url: str, prefix_key: str | None = None) -> int:
    headers = {} if prefix_key is None else {"x-prefix-key": prefix_key}
    return httpx.post(f"{url}/v1/chat/completions", json=BODY, headers=headers, timeout=60).status_code


def answers(box: Fleet) -> list[float]:
    return [read_counts(replica.metrics_url).answers for replica in box.replicas]


@pytest.mark.slow
def test_requests_that_begin_alike_meet_on_one_replica(box: Fleet) -> None:
    before = answers(box)
    assert [ask(box.url, "teller-1") for _ in range(6)] == [200] * 6
    assert sorted(after - earlier for after, earlier in zip(answers(box), before, strict=True)) == [0, 6]


def test_requests_that_name_no_prefix_are_spread(box: Fleet) -> None:
    before = answers(box)
    assert [ask(box.url) for _ in range(6)] == [200] * 6
    assert sorted(after - earlier for after, earlier in zip(answers(box), before, strict=True)) == [3, 3]


def test_a_rolling_restart_fails_no_request(box: Fleet) -> None:
    """Users ask all the time while both replicas are restarted, one after the other."""
    statuses: list[int] = []
    is_over = threading.Event()

    def keep_asking() -> None:
        while not is_over.is_set():
            statuses.append(ask(box.url))

    users = [threading.Thread(target=keep_asking) for _ in range(2)]
    for user in users:
        user.start()
    pids = [replica.service.pid for replica in box.replicas]
    try:
        box.restart_all()
    finally:
        is_over.set()
        for user in users:
            user.join()
    assert pids != [replica.service.pid for replica in box.replicas]
    assert len(statuses) > 10
    assert set(statuses) == {200}


def test_a_process_enters_its_group_before_it_does_anything(tmp_path: Path) -> None:
    """A directory stands for the group: the kernel's would have to be made by root."""
    command = CoreShare(tmp_path).entering([sys.executable, "-c", "import os; print(os.getpid())"])
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert (tmp_path / "cgroup.procs").read_text() == done.stdout


def test_counts_are_read_from_what_a_server_exports() -> None:
    metrics = Metrics()
    metrics.finished.labels("stop").inc(3)
    metrics.finished.labels("error").inc()
    metrics.prefix_queries.inc(10)
    metrics.prefix_hits.inc(4)
    state = FrontState("m", in_flight=0, is_ready=True, num_engine_starts=1, page_size=16, num_pages=8)
    assert parse_counts(metrics.exposition(state).decode()) == Counts(answers=3, prefix_queries=10, prefix_hits=4)


def test_hit_rate_and_balance_are_over_all_replicas() -> None:
    counts = [Counts(30, 100, 90), Counts(10, 100, 10)]
    assert hit_rate(counts) == 0.5
    assert imbalance(counts) == 1.5
    assert (hit_rate([]), imbalance([Counts(0, 0, 0)])) == (0.0, 1.0)
