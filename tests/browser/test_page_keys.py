"""The page of a server that lets nobody in without a key: it says so, asks for one, and tells a wrong one from a right one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect
from pydantic import SecretStr

from server.settings import Settings
from tests.browser.conftest import Visit
from tests.browser.storyteller import tell
from tests.browser.test_page import assert_accessible
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

KEY = "s3cret-s3cret-s3cret"


@pytest.fixture
def locked_front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(tell, pace_s=0.01), Settings(api_key=SecretStr(KEY)), family="interleaved") as front:
        yield front


def key_field(visit: Visit) -> Locator:
    return visit.page.get_by_label("API key")


def forget_refusals(visit: Visit) -> None:
    """The browser says which requests were refused, which is no fault of the page."""
    visit.complaints[:] = [complaint for complaint in visit.complaints if "401" not in complaint]


def test_a_server_with_keys_says_so_and_asks_for_one(locked_front: RunningFront, visit: Visit) -> None:
    """The status dot had grown into an ellipse over the whole bar, and what was said beside it had no width left."""
    visit.page.goto(locked_front.url)
    expect(key_field(visit)).to_be_focused()
    expect(visit.page.get_by_role("alert")).to_have_text("This server needs an API key.")
    assert visit.page.locator("#settings input, #settings select").first.get_attribute("id") == "set-key"
    dot, said = visit.page.locator("#dot").bounding_box(), visit.page.locator("#model").bounding_box()
    assert dot is not None and dot["width"] == dot["height"] <= 10
    assert said is not None and said["width"] > 100
    expect(visit.page.locator("#model")).to_have_text("This server needs an API key.")
    assert_accessible(visit.page)
    forget_refusals(visit)


def test_a_wrong_key_is_refused_in_words_and_a_right_one_connects(locked_front: RunningFront, visit: Visit) -> None:
    visit.page.goto(locked_front.url)
    key_field(visit).fill("some other")
    key_field(visit).press("Enter")
    expect(visit.page.get_by_role("alert")).to_have_text("The server does not know this API key.")
    expect(key_field(visit)).to_be_focused()
    key_field(visit).fill(KEY)
    key_field(visit).press("Enter")
    visit.page.locator(".dot.ready").wait_for()
    expect(visit.page.locator("#settings")).not_to_be_visible()
    visit.ask("a small red star")
    visit.wait_for_the_end()
    visit.page.get_by_role("button", name="Settings", exact=True).click()
    expect(visit.page.get_by_text("Kept in this browser.")).to_be_visible()
    forget_refusals(visit)


def test_a_key_is_tried_when_its_field_is_left(locked_front: RunningFront, visit: Visit) -> None:
    visit.page.goto(locked_front.url)
    key_field(visit).fill(KEY)
    key_field(visit).press("Tab")
    visit.page.locator(".dot.ready").wait_for()
    expect(visit.page.locator("#settings")).not_to_be_visible()
    forget_refusals(visit)


def test_who_has_no_key_may_look_at_the_page_and_is_asked_again_when_sending(locked_front: RunningFront, visit: Visit) -> None:
    """A dialog closed without a key had asked for it anew at once, for ever."""
    visit.page.goto(locked_front.url)
    visit.page.get_by_role("button", name="Close settings").click()
    expect(visit.page.locator("#settings")).not_to_be_visible()
    visit.ask("a small red star")
    expect(key_field(visit)).to_be_focused()
    expect(visit.page.locator(".foot .failure")).to_have_text("This server needs an API key.")
    forget_refusals(visit)
