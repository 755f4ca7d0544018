"""Who may ask: API keys, kept as SHA-256 of secrets that nobody stores, and the tenant each belongs to.

A secret has 256 random bits, so a plain hash of it is as hard to invert as the secret is to guess. The file an operator keeps:

    {"keys": [{"tenant": "alice", "sha256": "…64 hex digits…", "weight": 2, "requests_per_minute": 60}]}

``plait key alice`` prints a new secret and the line for it. Several keys may belong to one tenant, so that one can replace another.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

import msgspec

SECRET_PREFIX = "plait-"
TENANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_KEYS = 10_000
MAX_FILE_BYTES = 8 << 20


class BadKeys(Exception):
    """The key file cannot be used; the message names the entry and never a digest."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant may use; None is no bound. Tokens are prompts, their pictures included, and words of answers; pictures are
    drawn ones."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    pictures_per_minute: int | None = None
    max_in_flight: int | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """Somebody who asks. ``weight`` is the share of the engine beside other tenants."""

    name: str
    weight: float = 1.0
    quota: Quota = Quota()


ANYONE = Tenant("")
"""Who asks where no keys are set."""


class KeyEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a key file keeps of one key."""

    tenant: str
    sha256: str
    weight: float = 1.0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    pictures_per_minute: int | None = None
    max_in_flight: int | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[KeyEntry]


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of a server. Empty: everybody may ask."""

    _tenants: tuple[tuple[bytes, Tenant], ...] = ()

    @classmethod
    def of_secret(cls, secret: str) -> KeyRing:
        """Return the ring of one secret, whose holder is the tenant ``default``."""
        return cls(((digest_of(secret).encode(), Tenant("default")),))

    @classmethod
    def from_file(cls, path: Path) -> KeyRing:
        """Read a key file.

        Raises:
            BadKeys: it is missing, too large, or an entry has something wrong.
        """
        try:
            content = path.read_bytes() if path.stat().st_size <= MAX_FILE_BYTES else b""
            entries = msgspec.json.decode(content, type=_File).keys
        except OSError as error:
            raise BadKeys(f"the key file {path} cannot be read: {error.strerror}") from error
        except msgspec.DecodeError as error:
            raise BadKeys(f"the key file {path} does not have the expected form: {error}") from error
        if not 0 < len(entries) <= MAX_KEYS:
            raise BadKeys(f"the key file {path} has {len(entries)} keys; expected 1 to {MAX_KEYS}")
        return cls(tuple((entry.sha256.encode(), _tenant(entry, place, path)) for place, entry in enumerate(entries)))

    @property
    def is_empty(self) -> bool:
        """Whether the server has no keys, so that everybody may ask."""
        return not self._tenants

    def tenant_of(self, secret: str) -> Tenant | None:
        """Return who holds ``secret``; every key is compared, in constant time, whether one has matched or not."""
        digest = digest_of(secret).encode()
        found: Tenant | None = None
        for known, tenant in self._tenants:
            if hmac.compare_digest(known, digest):
                found = tenant
        return found


def new_secret() -> str:
    """Return a secret nobody can guess."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def tenant_of_entry(entry: KeyEntry) -> Tenant:
    """Return whose key an entry keeps.

    Raises:
        BadKeys: names the field that is out of its bounds.
    """
    if TENANT_NAME.fullmatch(entry.tenant) is None:
        raise BadKeys("tenant: expected up to 64 letters, digits, '.', '_' or '-'")
    if DIGEST.fullmatch(entry.sha256) is None:
        raise BadKeys("sha256: expected 64 lower-case hexadecimal digits (plait key NAME prints them)")
    if not 0.01 <= entry.weight <= 1000:
        raise BadKeys("weight: expected 0.01 to 1000")
    quota = Quota(entry.requests_per_minute, entry.tokens_per_minute, entry.pictures_per_minute, entry.max_in_flight)
    for name, bound in dataclasses.asdict(quota).items():
        if bound is not None and bound < 1:
            raise BadKeys(f"{name}: must be at least 1; leave it out for no bound")
    return Tenant(entry.tenant, entry.weight, quota)


def _tenant(entry: KeyEntry, place: int, path: Path) -> Tenant:
    try:
        return tenant_of_entry(entry)
    except BadKeys as error:
        raise BadKeys(f"the key file {path}, keys[{place}].{error}") from error
