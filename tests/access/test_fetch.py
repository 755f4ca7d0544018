"""Fetching pictures, in a network of its own (needs root and iproute2, as CI has)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

Outcome = dict[str, Any]
"""``results``: what came of each case; ``seen``: what the server was asked."""

ROOT = Path(__file__).parents[2]
UNFETCHED = "messages[0]: the picture cannot be fetched."
NOTHING_THERE = "messages[0]: there is no picture at this address."


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    command = ["unshare", "--net", sys.executable, "-m", "tests.access.fetch_in_own_network"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    outcome: Outcome = json.loads(done.stdout)
    return outcome


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("redirect", NOTHING_THERE),
        ("compressed", NOTHING_THERE),
        ("missing", NOTHING_THERE),
        ("huge", "messages[0]: the picture has more than 50000 bytes."),
        ("slow", "messages[0]: the picture takes too long to fetch."),
        ("not allowed", "messages[0]: pictures are not fetched from this host; the operator lists those that are allowed."),
        ("below a wildcard, with another's certificate", UNFETCHED),
        ("private", UNFETCHED),
        ("one of several is private", UNFETCHED),
        ("mapped", UNFETCHED),
        ("NAT64", UNFETCHED),
        ("no such name", UNFETCHED),
    ],
)
def test_a_fetch_is_refused_in_fixed_words(case: str, message: str, outcome: Outcome) -> None:
    assert outcome["results"][case] == message


def test_a_picture_of_an_allowed_host_is_fetched(outcome: Outcome) -> None:
    assert isinstance(length := outcome["results"]["picture"], int) and length > 50


def test_the_address_that_was_checked_is_the_one_connected_to(outcome: Outcome) -> None:
    """A name that resolves to another address the second time is never resolved a second time."""
    assert outcome["results"]["rebinding"] == outcome["results"]["picture"]


def test_a_redirect_is_not_followed_and_a_refused_host_never_asked(outcome: Outcome) -> None:
    seen = outcome["seen"]
    assert seen == [
        "images.example.com /picture.png?x=1",
        *(f"images.example.com /{path}" for path in ("redirect", "compressed", "huge", "slow", "none", "picture.png")),
    ]
