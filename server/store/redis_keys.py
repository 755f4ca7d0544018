"""How the store's keys are spelled in Redis; nothing else spells one.

Everything of one stream lives under one hash tag, so that its script runs on one node of a cluster; what joins streams (owners, given-up
work) has another and is only ever changed by the scripts that own it. An ACL user limited to ``PREFIX*`` suffices.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Spells keys under ``prefix``."""

    prefix: str

    def head(self, stream_id: str) -> str:
        """A hash: what is known of a stream."""
        return f"{self.prefix}{{{stream_id}}}:head"

    def events(self, stream_id: str) -> str:
        """A Redis stream whose ids are ``SEQUENCE-0``."""
        return f"{self.prefix}{{{stream_id}}}:events"

    def canon(self, stream_id: str) -> str:
        """A list."""
        return f"{self.prefix}{{{stream_id}}}:canon"

    def key(self, tenant: str, key: str) -> str:
        """A string: the stream and the fingerprint an idempotency key stands for."""
        return f"{self.prefix}key:{tenant}:{key}"

    def picture(self, digest: str) -> str:
        """A string: the bytes."""
        return f"{self.prefix}picture:{digest}"

    def bucket(self, name: str) -> str:
        """A hash: level and time of a token bucket."""
        return f"{self.prefix}bucket:{name}"

    @property
    def owners(self) -> str:
        """A sorted set: when each owner's lease ends."""
        return f"{self.prefix}owners"

    @property
    def given_up(self) -> str:
        """A set: streams without an owner."""
        return f"{self.prefix}given-up"

    def owned(self, owner: str) -> str:
        """A set: running streams of one owner."""
        return f"{self.prefix}owned:{owner}"

    def claimed(self, owner: str) -> str:
        """A list: the number of the owner's latest claim, and what it took."""
        return f"{self.prefix}claimed:{owner}"

    def cancelled(self, owner: str) -> str:
        """A set: those of them that are to be cancelled."""
        return f"{self.prefix}cancelled:{owner}"
