"""The page while its line to the server is broken: it says so at once, and goes on where it was when the line is whole again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.breakable_line import BreakableLine, breakable_line
from tests.browser.conftest import Visit
from tests.browser.storyteller import PANELS
from tests.server.running_front import RunningFront


@pytest.fixture
def line(pausing_front: RunningFront) -> Iterator[BreakableLine]:
    with breakable_line(pausing_front.url) as line:
        yield line


def ask_and_break(visit: Visit, line: BreakableLine) -> None:
    """Ask for a story, and break the line while its second picture is being drawn."""
    visit.open(line.url)
    visit.ask("tell me a story")
    visit.page.locator(".done ~ .drawing").wait_for()
    line.break_down()
    expect(visit.page.locator("#model")).to_have_text("reconnecting…")
    expect(visit.page.locator("#dot")).to_have_class("dot waiting")
    expect(visit.page.locator(".speed")).to_have_text("reconnecting…")


def forget_the_break(visit: Visit) -> None:
    """The browser says what it could not load, which is no fault of the page."""
    visit.complaints[:] = [complaint for complaint in visit.complaints if "net::ERR_" not in complaint]


def test_a_broken_line_is_shown_at_once_and_the_answer_goes_on_when_it_is_whole(
    line: BreakableLine, pausing_front: RunningFront, visit: Visit
) -> None:
    """For a quarter of a minute nothing moved, beside a dot that said that all was well."""
    ask_and_break(visit, line)
    line.mend()
    expect(visit.page.locator("#dot")).to_have_class("dot ready")
    pausing_front.engine.release()
    visit.wait_for_the_end()
    expect(visit.page.locator(".done")).to_have_count(len(PANELS))
    assert len(pausing_front.engine.requests) == 1
    forget_the_break(visit)


def test_an_answer_can_be_stopped_while_the_line_is_broken(line: BreakableLine, visit: Visit) -> None:
    ask_and_break(visit, line)
    visit.page.get_by_role("button", name="Stop the answer").click()
    expect(visit.page.locator(".foot")).to_contain_text("stopped")
    expect(visit.page.locator("#dot")).to_have_class("dot waiting")
    line.mend()
    expect(visit.page.locator("#dot")).to_have_class("dot ready")
    forget_the_break(visit)
