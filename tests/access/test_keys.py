"""API keys: what is kept of them, who holds them, and what an operator's file may say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from server.access.keys import BadKeys, KeyRing, Quota, digest_of, new_secret


def key_file(tmp_path: Path, *entries: Mapping[str, object]) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": list(entries)}))
    return path


def test_a_secret_finds_its_tenant_and_no_other_secret_does(tmp_path: Path) -> None:
    alice, bob = new_secret(), new_secret()
    entries: list[dict[str, object]] = [
        {"tenant": "alice", "sha256": digest_of(alice), "weight": 2.5},
        {"tenant": "bob", "sha256": digest_of(bob)},
    ]
    ring = KeyRing.from_file(key_file(tmp_path, *entries))
    found = ring.tenant_of(alice)
    assert found is not None and (found.name, found.weight) == ("alice", 2.5)
    assert [ring.tenant_of(wrong) for wrong in ("", alice[:-1], alice + "x", digest_of(alice), "\ud800")] == [None] * 5


def test_several_keys_may_belong_to_one_tenant(tmp_path: Path) -> None:
    secrets = [new_secret(), new_secret()]
    ring = KeyRing.from_file(key_file(tmp_path, *({"tenant": "alice", "sha256": digest_of(secret)} for secret in secrets)))
    assert [tenant.name for secret in secrets if (tenant := ring.tenant_of(secret))] == ["alice", "alice"]


def test_quotas_are_read(tmp_path: Path) -> None:
    secret = new_secret()
    bounds = {"requests_per_minute": 60, "tokens_per_minute": 1000, "pictures_per_minute": 5, "max_in_flight": 4}
    tenant = KeyRing.from_file(key_file(tmp_path, {"tenant": "a", "sha256": digest_of(secret), **bounds})).tenant_of(secret)
    assert tenant is not None and tenant.quota == Quota(60, 1000, 5, 4)


def test_secrets_are_long_and_different() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100 and min(map(len, secrets)) >= 43


GOOD = {"tenant": "alice", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({**GOOD, "tenant": ""}, "tenant"),
        ({**GOOD, "tenant": "a/b"}, "tenant"),
        ({**GOOD, "tenant": "x" * 65}, "tenant"),
        ({**GOOD, "sha256": "0" * 63}, "sha256"),
        ({**GOOD, "sha256": "A" * 64}, "sha256"),
        ({**GOOD, "weight": 0}, "weight"),
        ({**GOOD, "requests_per_minute": 0}, "at least 1"),
        ({**GOOD, "secret": "x"}, "secret"),
        ({"tenant": "alice"}, "sha256"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, entry: dict[str, object], words: str) -> None:
    with pytest.raises(BadKeys, match=words):
        KeyRing.from_file(key_file(tmp_path, entry))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"keys": []}', "not json"])
def test_a_file_without_keys_is_refused(tmp_path: Path, content: str) -> None:
    """An empty file must never mean an open server."""
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(BadKeys):
        KeyRing.from_file(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadKeys, match="cannot be read"):
        KeyRing.from_file(tmp_path / "none.json")
