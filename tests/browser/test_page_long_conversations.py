"""Conversations that outgrow what the server reads at once: the page sends the newest turns of them, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from server.messages import ImageSegment, Request, TextSegment
from server.settings import Settings
from tests.browser.conftest import Visit, a_picture, drop
from tests.browser.storyteller import PANELS, tell
from tests.server.api.chats import TOKENIZER, hello
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import READY, ScriptedEngine

WORDS = "a small red star at night " * 20
NUM_TOKENS = len(TOKENIZER.encode(WORDS))
ROOM_FOR_TWO = replace(READY, max_positions=NUM_TOKENS * 5 // 2, max_context_rows=NUM_TOKENS * 5 // 2)
"""A context that holds two messages of `WORDS` with their short answers, and not three."""


@pytest.fixture
def narrow_front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(hello, ready=ROOM_FOR_TWO), family="interleaved") as front:
        yield front


def ask_for_words_only(visit: Visit) -> None:
    visit.page.get_by_role("button", name="Settings", exact=True).click()
    visit.page.get_by_label("Answer with").select_option("text")
    visit.page.get_by_role("button", name="Close settings").click()


def forget_refusals(visit: Visit, status: int) -> None:
    """The browser says which requests were refused, which is no fault of the page."""
    visit.complaints[:] = [complaint for complaint in visit.complaints if str(status) not in complaint]


def num_pictures(request: Request) -> int:
    return sum(isinstance(segment, ImageSegment) for segment in request.segments)


def test_the_oldest_turns_stay_behind_where_more_pictures_would_go_along_than_are_read(visit: Visit) -> None:
    """A conversation ended at its seventeenth picture: every later message was refused."""
    with running_front(ScriptedEngine(tell), Settings(max_pictures=len(PANELS) + 1), family="interleaved") as front:
        visit.open(front.url)
        for place in range(3):
            visit.ask(f"story {place}")
            visit.wait_for_the_end()
            expect(visit.page.locator(".left-out")).to_have_count(int(place == 2))
        assert [num_pictures(request) for request in front.engine.requests] == [0, len(PANELS), len(PANELS)]
        expect(visit.page.locator(".left-out + .turn .bubble")).to_contain_text("story 1")
        visit.page.reload()
        expect(visit.page.locator(".left-out + .turn .bubble")).to_contain_text("story 1")


def test_pictures_of_the_newest_message_always_go_along(visit: Visit) -> None:
    with running_front(ScriptedEngine(tell), Settings(max_pictures=2), family="interleaved") as front:
        visit.open(front.url)
        for _ in range(2):
            for place in range(2):
                drop(visit.page, a_picture(shade=place))
                visit.page.locator(".chip").nth(place).wait_for()
            visit.ask("what are these")
            visit.wait_for_the_end()
        assert [num_pictures(request) for request in front.engine.requests] == [2, 2]
        for place in range(3):
            drop(visit.page, a_picture(shade=place))
        expect(visit.page.get_by_role("alert")).to_have_text("A message takes 2 pictures.")


def test_the_oldest_turns_stay_behind_where_the_context_is_full(narrow_front: RunningFront, visit: Visit) -> None:
    visit.open(narrow_front.url)
    ask_for_words_only(visit)
    for _ in range(4):
        visit.ask(WORDS)
        visit.wait_for_the_end()
    questions = [sum(isinstance(part, TextSegment) for part in request.segments) for request in narrow_front.engine.requests]
    assert questions == [1, 3, 3, 3], "a question, or one with the exchange before it"
    expect(visit.page.locator(".failure")).to_have_count(0)
    expect(visit.page.locator(".left-out ~ .turn")).to_have_count(2)
    forget_refusals(visit, 400)


def test_where_even_the_newest_message_is_too_long_a_new_conversation_is_offered(narrow_front: RunningFront, visit: Visit) -> None:
    visit.open(narrow_front.url)
    ask_for_words_only(visit)
    visit.ask(WORDS * 3)
    expect(visit.page.locator(".failure")).to_contain_text("the context holds")
    visit.page.get_by_role("button", name="New conversation").click()
    expect(visit.page.locator(".turn")).to_have_count(0)
    forget_refusals(visit, 400)


def test_the_oldest_turns_stay_behind_where_the_request_is_too_large(visit: Visit) -> None:
    settings = Settings(max_body_bytes=len(WORDS) * 5 // 2)
    with running_front(ScriptedEngine(hello), settings, family="interleaved") as front:
        visit.open(front.url)
        for _ in range(3):
            visit.ask(WORDS)
            visit.wait_for_the_end()
        assert len(front.engine.requests) == 3
        expect(visit.page.locator(".failure")).to_have_count(0)
        expect(visit.page.locator(".left-out")).to_be_visible()
        forget_refusals(visit, 413)
