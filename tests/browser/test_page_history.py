"""Conversations of the past, kept by the browser: forgotten when told so, and never lost to another tab or a slip of the hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.conftest import Visit
from tests.browser.test_page import assert_accessible
from tests.server.api.chats import endless
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine


@pytest.fixture
def slow_front() -> Iterator[RunningFront]:
    """Each answer says a letter and waits to be released."""
    with running_front(ScriptedEngine(endless), family="interleaved") as front:
        yield front


def open_history(visit: Visit) -> Locator:
    """Open the drawer and return its rows."""
    visit.page.get_by_role("button", name="History", exact=True).click()
    visit.page.locator("#history[open]").wait_for()
    return visit.page.locator("#past .past-one")


def ask_and_wait(visit: Visit, words: str) -> None:
    visit.ask(words)
    visit.wait_for_the_end()


def test_only_the_last_turn_can_be_asked_again(front: RunningFront, visit: Visit) -> None:
    """Again on an earlier turn deleted all turns after it at once."""
    visit.open(front.url)
    for words in ("one", "two"):
        ask_and_wait(visit, words)
    expect(visit.page.get_by_role("button", name="Code")).to_have_count(2)
    expect(visit.page.get_by_role("button", name="Again")).to_have_count(1)
    visit.page.locator(".turn").last.get_by_role("button", name="Again").click()
    front.engine.wait_for_requests(3)
    visit.wait_for_the_end()
    expect(visit.page.locator(".bubble")).to_contain_text(["one", "two"])


def test_a_forgotten_conversation_that_is_open_is_left_and_does_not_come_back(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    ask_and_wait(visit, "one")
    open_history(visit)
    visit.page.get_by_role("button", name="Forget “one”").click()
    expect(visit.page.locator(".turn")).to_have_count(0)
    expect(visit.page.get_by_role("button", name="Forget everything")).not_to_be_visible()
    visit.page.get_by_role("button", name="Close history").click()
    ask_and_wait(visit, "two")
    expect(open_history(visit)).to_contain_text(["two"])


def test_a_conversation_forgotten_in_mid_answer_ends_it(slow_front: RunningFront, visit: Visit) -> None:
    visit.open(slow_front.url)
    visit.ask("one")
    visit.page.locator(".words").wait_for()
    open_history(visit)
    visit.page.get_by_role("button", name="Forget “one”").click()
    slow_front.engine.wait_until(lambda: len(slow_front.engine.aborted) == 1)
    visit.page.reload()
    visit.page.locator(".dot.ready").wait_for()
    expect(open_history(visit)).to_have_count(0)


def test_everything_is_forgotten_only_when_it_is_meant(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    ask_and_wait(visit, "one")
    open_history(visit)
    visit.page.get_by_role("button", name="Forget everything").click()
    assert_accessible(visit.page)
    visit.page.get_by_role("button", name="Keep them").click()
    expect(visit.page.locator("#past .past-one")).to_have_count(1)
    visit.page.get_by_role("button", name="Forget everything").click()
    visit.page.get_by_role("button", name="Forget all").click()
    expect(visit.page.locator(".turn")).to_have_count(0)
    expect(open_history(visit)).to_have_count(0)


def test_two_tabs_show_one_conversation(front: RunningFront, visit: Visit) -> None:
    """The tab that wrote last won, and the turns of the other were gone."""
    visit.open(front.url)
    ask_and_wait(visit, "one")
    other = another_tab(visit, front)
    expect(bubbles(other)).to_contain_text(["one"])
    ask_and_wait(visit, "two")
    expect(bubbles(other)).to_contain_text(["one", "two"])
    expect(other.page.locator(".done")).to_have_count(visit.page.locator(".done").count())
    ask_and_wait(other, "three")
    expect(bubbles(visit)).to_contain_text(["one", "two", "three"])
    expect(open_history(visit)).to_have_count(1)


def test_what_two_tabs_ask_at_the_same_time_is_kept_apart(slow_front: RunningFront, visit: Visit) -> None:
    visit.open(slow_front.url)
    visit.ask("one")
    visit.page.locator(".words").wait_for()
    visit.page.get_by_role("button", name="Stop the answer").click()
    visit.wait_for_the_end()
    other = another_tab(visit, slow_front)
    visit.ask("two")
    expect(bubbles(other)).to_contain_text(["one", "two"])
    other.ask("three")
    slow_front.engine.release()
    for tab in (visit, other):
        tab.wait_for_the_end()
    expect(visit.page.locator("#toast")).to_contain_text("Both are in the history")
    expect(bubbles(visit)).to_contain_text(["one", "two"])
    expect(bubbles(other)).to_contain_text(["one", "two", "three"])
    expect(open_history(visit)).to_have_count(2)


def test_what_one_tab_forgets_is_left_by_the_other(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    ask_and_wait(visit, "one")
    other = another_tab(visit, front)
    expect(bubbles(other)).to_have_count(1)
    open_history(visit)
    visit.page.get_by_role("button", name="Forget “one”").click()
    expect(bubbles(other)).to_have_count(0)


def another_tab(visit: Visit, front: RunningFront) -> Visit:
    other = Visit(visit.page.context.new_page())
    other.open(front.url)
    return other


def bubbles(visit: Visit) -> Locator:
    return visit.page.locator(".bubble")
