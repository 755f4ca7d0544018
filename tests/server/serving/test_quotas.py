"""Quotas of a tenant: what one request takes, what it gives back, and what happens at the bound."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from server.access.keys import Quota, Tenant
from server.errors import QuotaExceeded
from server.messages import FinishReason, ImageParams, OutputMode, Request, SamplingParams, TextSegment, Usage
from server.serving.events import CallEvent, Event, FinishedEvent, PreviewEvent, TextEvent
from server.serving.prepare import Plan
from server.serving.quotas import Account, Quotas
from server.serving.reply_reader import Thinking
from server.store.memory import MemoryBounds, MemoryStore
from server.store.store import Bucket, RateDecision, StoreUnavailable
from tests.clock import Clock

TEXT = Request("r", [TextSegment([1])], OutputMode.TEXT, SamplingParams(max_tokens=97), ImageParams(64, 64))
PICTURES = replace(TEXT, mode=OutputMode.IMAGE, image=replace(TEXT.image, max_images=3))
NUM_PROMPT_TOKENS = 3
"""Of the word, with its begin and end."""


def quotas(clock: Clock | None = None) -> Quotas:
    return Quotas(MemoryStore(MemoryBounds(), clock or Clock()))


def tenant(quota: Quota, name: str = "alice") -> Tenant:
    return Tenant(name, quota=quota)


class AwayRates:
    """A store that does not answer."""

    async def take(self, bucket: Bucket, cost: float) -> RateDecision:
        raise StoreUnavailable


def plan(*requests: Request, num_prompt_tokens: int = NUM_PROMPT_TOKENS) -> Plan:
    return Plan(list(requests), num_prompt_tokens, Thinking.NONE)


async def admitted(counted: Quotas, tenant: Tenant, plan: Plan) -> Account:
    """Let an ask in, or have it leave nothing behind."""
    account = counted.enter(tenant, len(plan.requests))
    async with AsyncExitStack() as undo:
        undo.push_async_callback(counted.settle, account)
        await counted.charge_request(account)
        await counted.charge(account, plan)
        undo.pop_all()
    return account


def spend(account: Account, *events: Event) -> None:
    for event in events:
        account.count(event)


def finished(tokens: int) -> FinishedEvent:
    return FinishedEvent(0, FinishReason.STOP, Usage(prompt_text_tokens=3, completion_text_tokens=tokens))


async def test_requests_in_a_minute_are_bounded_and_come_back_with_time() -> None:
    clock = Clock()
    counted, alice = quotas(clock), tenant(Quota(requests_per_minute=2))
    for _ in range(2):
        await counted.settle(await admitted(counted, alice, plan(TEXT)))
    with pytest.raises(QuotaExceeded, match=r"2 requests .* too few left .* needs 1\. Try again in 30 seconds\.") as caught:
        await admitted(counted, alice, plan(TEXT))
    assert caught.value.retry_after_s == pytest.approx(30.0)
    clock.now += 30.0
    await admitted(counted, alice, plan(TEXT))


async def test_one_tenant_s_use_is_not_another_s() -> None:
    counted = quotas()
    await admitted(counted, tenant(Quota(requests_per_minute=1)), plan(TEXT))
    await admitted(counted, tenant(Quota(requests_per_minute=1), "bob"), plan(TEXT))


async def test_tokens_are_taken_in_advance_and_what_was_not_used_is_given_back() -> None:
    counted, alice = quotas(), tenant(Quota(tokens_per_minute=150))
    account = await admitted(counted, alice, plan(TEXT))
    assert account.tokens is not None and (account.tokens.limit, account.tokens.remaining) == (150, 50)
    with pytest.raises(QuotaExceeded, match="tokens"):
        await admitted(counted, alice, plan(TEXT))
    spend(account, TextEvent(0, 0, "a"), finished(10))
    await counted.settle(account)
    again = await admitted(counted, alice, plan(TEXT))
    assert again.tokens is not None and again.tokens.remaining == 150 - 13 - 100


async def test_what_is_taken_for_a_prompt_is_what_its_usage_will_say() -> None:
    """The rows of its pictures were not in it, nor the begin and end of its texts: with many pictures at once a tenant used as many tokens
    as it had requests under way for, whatever its bound."""
    counted, alice = quotas(), tenant(Quota(tokens_per_minute=10_000))
    account = await admitted(counted, alice, plan(TEXT, num_prompt_tokens=5000))
    assert account.tokens is not None and account.tokens.remaining == 10_000 - 5000 - 97
    spend(account, FinishedEvent(0, FinishReason.STOP, Usage(prompt_text_tokens=3, prompt_image_tokens=4997, completion_text_tokens=17)))
    await counted.settle(account)
    again = await admitted(counted, alice, plan(TEXT))
    assert again.tokens is not None and again.tokens.remaining == 10_000 - 5000 - 17 - 100


async def test_the_prompt_of_several_answers_is_paid_once() -> None:
    """As their usage says, which counts it once; each answer paid for it."""
    counted, alice = quotas(), tenant(Quota(tokens_per_minute=1000))
    account = await admitted(counted, alice, plan(TEXT, TEXT, num_prompt_tokens=500))
    assert account.tokens is not None and account.tokens.remaining == 1000 - 500 - 2 * 97
    usage = Usage(prompt_text_tokens=500, completion_text_tokens=10)
    spend(account, *[FinishedEvent(choice, FinishReason.STOP, usage) for choice in range(2)])
    await counted.settle(account)
    again = await admitted(counted, alice, plan(TEXT))
    assert again.tokens is not None and again.tokens.remaining == 1000 - 500 - 2 * 10 - 100


async def test_a_prompt_of_which_a_preview_was_seen_is_paid_for() -> None:
    """An edit given up after its first preview cost its picture, and nothing for the large one it was made from."""
    counted, alice = quotas(), tenant(Quota(tokens_per_minute=1000))
    account = await admitted(counted, alice, plan(PICTURES, num_prompt_tokens=500))
    spend(account, PreviewEvent(0, 0, 0, 2, 3, b"webp"))
    await counted.settle(account)
    again = await admitted(counted, alice, plan(TEXT))
    assert again.tokens is not None and again.tokens.remaining == 1000 - 500 - 100


async def test_an_answer_that_is_given_up_costs_what_was_seen_of_it() -> None:
    """Else a client could have everything but the last token for nothing."""
    counted, alice = quotas(), tenant(Quota(tokens_per_minute=150))
    account = await admitted(counted, alice, plan(TEXT))
    spend(account, *[TextEvent(0, 0, "a")] * 40)
    await counted.settle(account)
    await counted.settle(account)
    again = await admitted(counted, alice, plan(TEXT))
    assert again.tokens is not None and again.tokens.remaining == 150 - 3 - 40 - 100


async def test_a_call_that_was_seen_is_paid_for() -> None:
    """An answer given up after its first call cost nothing, not even its prompt."""
    counted, alice = quotas(), tenant(Quota(tokens_per_minute=150))
    account = await admitted(counted, alice, plan(TEXT))
    spend(account, CallEvent(0, 0, "call_0", "look", "{}"))
    await counted.settle(account)
    again = await admitted(counted, alice, plan(TEXT))
    assert again.tokens is not None and again.tokens.remaining == 150 - 3 - 1 - 100


async def test_a_picture_of_which_a_preview_was_seen_is_a_picture() -> None:
    """Else a client could have all its pictures but for the last steps of each, by leaving when the last preview has come."""
    counted, alice = quotas(), tenant(Quota(pictures_per_minute=4))
    account = await admitted(counted, alice, plan(PICTURES))
    spend(account, *[PreviewEvent(0, 1, preview, 2, 3, b"webp") for preview in range(3)])
    await counted.settle(account)
    with pytest.raises(QuotaExceeded, match="4 pictures"):
        await admitted(counted, alice, plan(PICTURES))


async def test_a_request_larger_than_a_minute_takes_the_whole_minute() -> None:
    counted, alice = quotas(), tenant(Quota(tokens_per_minute=50))
    account = await admitted(counted, alice, plan(TEXT))
    assert account.tokens is not None and account.tokens.remaining == 0


async def test_a_request_larger_than_a_minute_gets_back_no_more_than_was_taken() -> None:
    """It got back what it had left open beyond the minute too: with the length of answers left open, which is how most clients ask,
    a bound below the context's length bounded nothing."""
    counted, alice = quotas(), tenant(Quota(tokens_per_minute=50, pictures_per_minute=1))
    account = await admitted(counted, alice, plan(PICTURES, TEXT))
    spend(account, FinishedEvent(0, FinishReason.STOP, Usage(prompt_text_tokens=3, completion_text_tokens=17, num_images=1)))
    await counted.settle(account)
    with pytest.raises(QuotaExceeded, match="50 tokens"):
        await admitted(counted, alice, plan(TEXT))
    with pytest.raises(QuotaExceeded, match="1 pictures"):
        await admitted(counted, tenant(Quota(pictures_per_minute=1)), plan(PICTURES))


async def test_what_could_not_be_taken_is_not_given_back() -> None:
    """The store was away when it should have been, and is back."""
    store = MemoryStore(MemoryBounds(), Clock())
    alice = tenant(Quota(tokens_per_minute=150))
    spend_all = await admitted(Quotas(store), alice, plan(TEXT))
    spend(spend_all, finished(97))
    account = Quotas(store).enter(alice, 1)
    await Quotas(AwayRates()).charge(account, plan(TEXT))
    await Quotas(store).settle(account)
    with pytest.raises(QuotaExceeded, match="tokens"):
        await admitted(Quotas(store), alice, plan(TEXT))


async def test_pictures_are_bounded_and_a_refusal_takes_nothing() -> None:
    counted, alice = quotas(), tenant(Quota(pictures_per_minute=4, tokens_per_minute=1000))
    await admitted(counted, alice, plan(PICTURES))
    with pytest.raises(QuotaExceeded, match="4 pictures"):
        await admitted(counted, alice, plan(PICTURES))
    account = await admitted(counted, alice, plan(TEXT))
    assert account.tokens is not None and account.tokens.remaining == 1000 - 3 - 100


async def test_answers_at_once_are_bounded_until_they_end() -> None:
    counted, alice = quotas(), tenant(Quota(max_in_flight=2))
    account = await admitted(counted, alice, plan(TEXT, TEXT))
    with pytest.raises(QuotaExceeded, match="2 answers"):
        await admitted(counted, alice, plan(TEXT))
    await counted.settle(account)
    await admitted(counted, alice, plan(TEXT))
