"""The prefix cache tells a tenant nothing of what another has asked: not by its counters, not by the clock."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from loadtests.fleet.replica import served
from server.access.keys import digest_of
from tests.end_to_end.conftest import CHECKPOINT, SMALL

SECRETS = {name: f"plait-{name}-{'x' * 40}" for name in ("alice", "bob")}
NUM_SAMPLES = 16
PROMPT_WORDS = 1500
PERMUTATIONS = 4000
UNLIKELY = 1e-3
TOLD_APART = 0.05
"""For the check that there is something to tell: a busy machine adds noise to both samples."""


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, httpx.Client]]:
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    keys.write_text(json.dumps({"keys": [{"tenant": name, "sha256": digest_of(secret)} for name, secret in SECRETS.items()]}))
    with served("--model", str(CHECKPOINT), *SMALL, "--keys-file", str(keys)) as server:
        yield {name: client(server.url, secret) for name, secret in SECRETS.items()}


def client(url: str, secret: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"authorization": f"Bearer {secret}"}, timeout=120)


def prompt(rng: random.Random) -> str:
    return " ".join(rng.choice("abcdefghij") for _ in range(PROMPT_WORDS))


def ask(http: httpx.Client, text: str) -> tuple[float, int]:
    """Ask for one token; return the seconds it took and how much of the prompt was found in the cache."""
    started = time.perf_counter()
    body = {"model": "tiny_a", "messages": [{"role": "user", "content": text}], "max_completion_tokens": 1}
    response = http.post("/v1/chat/completions", json=body)
    elapsed = time.perf_counter() - started
    assert response.status_code == 200, response.text
    return elapsed, response.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def distinguishable(first: list[float], second: list[float], rng: np.random.Generator) -> float:
    """Return the p-value of two samples coming from one distribution: the Kolmogorov-Smirnov distance under permutation."""
    pooled, number = np.array(first + second), len(first)

    def distance(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        points = np.sort(values)
        shares = [np.searchsorted(np.sort(part), points, side="right") / len(part) for part in (values[:number], values[number:])]
        return float(np.abs(shares[0] - shares[1]).max())

    seen = distance(pooled)
    return sum(distance(rng.permutation(pooled)) >= seen for _ in range(PERMUTATIONS)) / PERMUTATIONS


@pytest.mark.slow
def test_a_tenant_finds_its_own_prompts_in_the_cache_and_nobody_else_s(tenants: dict[str, httpx.Client]) -> None:
    """Bob asks, in turns, what Alice has asked and what nobody has; then Alice does, as a check that the clock could tell."""
    rng = random.Random(0)
    known: list[float] = []
    fresh: list[float] = []
    own: list[float] = []
    own_fresh: list[float] = []
    for _ in range(NUM_SAMPLES):
        alices = prompt(rng)
        ask(tenants["alice"], alices)
        for times, who, text in rng.sample(
            [(known, "bob", alices), (fresh, "bob", prompt(rng)), (own, "alice", alices), (own_fresh, "alice", prompt(rng))], 4
        ):
            elapsed, num_cached = ask(tenants[who], text)
            assert (num_cached > 0) is (times is own), "only what the tenant itself asked before is in its cache"
            times.append(elapsed)
    generator = np.random.default_rng(0)
    assert distinguishable(own, own_fresh, generator) < TOLD_APART, "the clock tells what is cached from what is not"
    assert distinguishable(known, fresh, generator) > UNLIKELY
