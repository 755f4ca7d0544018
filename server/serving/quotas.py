"""What a tenant may use: requests, tokens and pictures in a minute, and answers under way at once.

Minutes are token buckets of the store, so that all replicas draw from one. Tokens and pictures are taken in advance, as many as the
answer may need, and what it did not use is given back when it ends; so nobody is over its bound, however many answers run at once.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, field

from server.access.keys import Tenant
from server.errors import QuotaExceeded
from server.messages import OutputMode
from server.serving.events import CallEvent, Event, FinishedEvent, PictureEvent, PreviewEvent, TextEvent, ThoughtEvent
from server.serving.prepare import Plan
from server.store.store import Bucket, RateStore, StoreUnavailable

MINUTE_S = 60.0
AT_ONCE_RETRY_S = 1.0
"""What a tenant with too many answers under way is told to wait: one may end any moment."""


@dataclass(frozen=True, slots=True)
class Use:
    """Tokens, as usage counts them: the rows of a prompt, its pictures included, and the words of its answers; and drawn pictures."""

    tokens: int = 0
    pictures: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """How a bound stands after a request was let in. ``reset_s``: seconds until it is untouched again."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(slots=True)
class Account:
    """One request's part of its tenant's quota, from `Quotas.enter` to `Quotas.settle`.

    Attributes:
        num_prompt_tokens: what its answers, which share it, have read when the first of them has anything to show.
        reserved: what was taken of the bounds in advance.
        requests, tokens: how the tenant stands, None where there is no bound.
    """

    tenant: Tenant
    num_answers: int
    num_prompt_tokens: int = 0
    reserved: Use = Use()
    requests: Standing | None = None
    tokens: Standing | None = None
    _num_read: int = 0
    _tokens: Counter[int] = field(default_factory=Counter)
    _pictures: Counter[int] = field(default_factory=Counter)
    _is_settled: bool = False

    def count(self, event: Event) -> None:
        """Take in what an event cost: by the usage of finished answers, by what was seen of others."""
        self._num_read = self._num_read or self.num_prompt_tokens
        match event:
            case TextEvent() | ThoughtEvent() | CallEvent():
                self._tokens[event.choice] += 1
            case PictureEvent() | PreviewEvent():
                self._pictures[event.choice] = event.index + 1
            case FinishedEvent():
                usage = event.usage
                self._num_read = usage.prompt_text_tokens + usage.prompt_image_tokens
                self._tokens[event.choice] = usage.completion_text_tokens
                self._pictures[event.choice] = usage.num_images
            case _:
                pass

    def close(self) -> Use | None:
        """Return what was reserved and not used; None when that was done before."""
        if self._is_settled:
            return None
        self._is_settled = True
        num_tokens = self._num_read + self._tokens.total()
        return Use(max(0, self.reserved.tokens - num_tokens), max(0, self.reserved.pictures - self._pictures.total()))


class Quotas:
    """Lets requests in within their tenants' bounds."""

    def __init__(self, rates: RateStore) -> None:
        self._rates = rates
        self._in_flight: Counter[str] = Counter()

    def enter(self, tenant: Tenant, num_answers: int) -> Account:
        """Count so many answers as under way until `settle`, those that are still to be prepared too.

        Raises:
            QuotaExceeded: too much at once.
        """
        most = tenant.quota.max_in_flight
        if most is not None and self._in_flight[tenant.name] + num_answers > most:
            raise QuotaExceeded(f"This key may have {most} answers under way at once.", AT_ONCE_RETRY_S)
        self._in_flight[tenant.name] += num_answers
        return Account(tenant, num_answers)

    async def charge(self, account: Account, plan: Plan) -> None:
        """Take what the answers of one ask may need.

        Raises:
            QuotaExceeded: too much in this minute; what was taken already is the account's, to be settled.
        """
        tenant, need = account.tenant, _need(plan)
        quota = tenant.quota
        account.num_prompt_tokens = plan.num_prompt_tokens
        account.tokens = await self._take(tenant, "tokens", quota.tokens_per_minute, need.tokens)
        account.reserved = Use(_taken(account.tokens, need.tokens), 0)
        pictures = await self._take(tenant, "pictures", quota.pictures_per_minute, need.pictures)
        account.reserved = Use(account.reserved.tokens, _taken(pictures, need.pictures))

    async def charge_request(self, account: Account) -> None:
        """Take one request, whatever it needs: before it is prepared, which is most of what one costs that comes to nothing.

        Raises:
            QuotaExceeded: too many in this minute.
        """
        account.requests = await self._take(account.tenant, "requests", account.tenant.quota.requests_per_minute, 1)

    async def settle(self, account: Account) -> None:
        """Give back what an answer did not use; doing it twice does nothing."""
        unused = account.close()
        if unused is None:
            return
        tenant = account.tenant
        self._in_flight[tenant.name] -= account.num_answers
        if not self._in_flight[tenant.name]:
            del self._in_flight[tenant.name]
        await asyncio.shield(self._give_back(tenant, unused))

    async def _give_back(self, tenant: Tenant, unused: Use) -> None:
        quota = tenant.quota
        for kind, limit, amount in (
            ("tokens", quota.tokens_per_minute, unused.tokens),
            ("pictures", quota.pictures_per_minute, unused.pictures),
        ):
            if limit is not None and amount:
                try:
                    await self._rates.take(_bucket(tenant, kind, limit), -amount)
                except StoreUnavailable:
                    return

    async def _take(self, tenant: Tenant, kind: str, limit: int | None, cost: int) -> Standing | None:
        """Take from one of a tenant's buckets. One request may cost a whole minute, never more; with the store away it costs nothing."""
        if limit is None:
            return None
        try:
            decision = await self._rates.take(_bucket(tenant, kind, limit), min(cost, limit))
        except StoreUnavailable:
            return None
        if not decision.is_granted:
            raise QuotaExceeded(_used_up(kind, limit, min(cost, limit), decision.retry_after_s), decision.retry_after_s)
        remaining = int(decision.remaining)
        return Standing(limit, remaining, (limit - remaining) * MINUTE_S / limit)


def _taken(standing: Standing | None, cost: int) -> int:
    """Return what was taken of a bound that stands like this since; nothing where there is none, or the store was away."""
    return 0 if standing is None else min(cost, standing.limit)


def _bucket(tenant: Tenant, kind: str, limit: int) -> Bucket:
    return Bucket(f"{tenant.name}:{kind}", float(limit), limit / MINUTE_S)


def _used_up(kind: str, limit: int, cost: int, wait_s: float) -> str:
    """Say how far a bound is used up, and when what a request costs is there again: after as many seconds as ``Retry-After`` says."""
    seconds = math.ceil(wait_s)
    return (
        f"This key may use {limit} {kind} in a minute and has too few left of them: this request needs {cost}. "
        f"Try again in {seconds} second{'' if seconds == 1 else 's'}."
    )


def _need(plan: Plan) -> Use:
    tokens, pictures = plan.num_prompt_tokens, 0
    for request in plan.requests:
        tokens += 0 if request.mode is OutputMode.IMAGE else request.sampling.max_tokens
        pictures += 0 if request.mode is OutputMode.TEXT else request.image.max_images
    return Use(tokens, pictures)
