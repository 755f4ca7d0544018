"""The page at ``/`` as a person meets it: in a real browser, over real HTTP, with an engine that tells a story by script."""

from __future__ import annotations

import base64
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from server.messages import ImageSegment, OutputMode
from server.settings import Settings
from tests.browser.conftest import FAR_HOST, Visit, a_picture, drop, visiting
from tests.browser.storyteller import NUM_STEPS, PANELS, tell
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

STORY = "Tell me a story about a small red star in three panels"
TOLD = [piece for words, _ in PANELS for piece in (words, "picture")]
MAX_TRANSFER_BYTES = 200_000


def test_a_story_comes_in_order_with_previews_of_what_is_being_drawn(pausing_front: RunningFront, visit: Visit) -> None:
    visit.open(pausing_front.url)
    visit.ask(STORY)
    visit.page.locator(".turn").last.locator("figure").nth(1).wait_for()
    visit.page.locator(".drawing img[src^='data:image/webp']").wait_for()
    ring = visit.page.get_by_role("progressbar", name="Drawing a picture")
    expect(ring).to_have_attribute("aria-valuemax", str(NUM_STEPS))
    expect(ring).to_have_attribute("aria-valuenow", str(NUM_STEPS // 2))
    assert visit.order() == [*TOLD[:3], "picture"]
    pausing_front.engine.release()
    visit.wait_for_the_end()
    assert visit.order() == TOLD
    assert visit.page.locator(".drawing").count() == 0


def test_the_speed_is_shown_while_an_answer_runs_and_its_sum_when_it_is_over(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    visit.ask(STORY)
    expect(visit.page.locator(".speed")).to_contain_text("steps/s")
    visit.wait_for_the_end()
    expect(visit.page.locator(".speed")).to_contain_text("60 tokens · 3 pictures")


def test_a_server_that_is_gone_is_shown_as_gone_until_it_is_back(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    model, dot = visit.page.locator("#model"), visit.page.locator("#dot")
    expect(dot).to_have_class("dot ready")
    visit.page.context.set_offline(True)
    visit.ask(STORY)
    expect(model).to_have_text("The server does not answer.")
    expect(dot).to_have_class("dot waiting")
    visit.page.context.set_offline(False)
    expect(dot).to_have_class("dot ready")
    assert all("ERR_INTERNET_DISCONNECTED" in complaint for complaint in visit.complaints), "the browser says what failed, the page nothing"
    visit.complaints.clear()


def test_a_dropped_picture_is_sent_with_the_words(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    drop(visit.page, a_picture())
    visit.page.locator(".chip img").wait_for()
    visit.ask("what is this")
    visit.wait_for_the_end()
    (request,) = front.engine.requests
    assert isinstance(request.segments[0], ImageSegment)
    assert visit.page.locator(".given").count() == 1


def test_a_clicked_picture_is_edited(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    visit.ask(STORY)
    visit.wait_for_the_end()
    visit.page.get_by_role("button", name="Edit this picture").last.click()
    expect(visit.page.get_by_label("Message", exact=True)).to_be_focused()
    visit.ask("make the star blue and big")
    visit.page.locator(".turn").nth(1).locator(".done").wait_for()
    edit = front.engine.requests[-1]
    assert edit.mode is OutputMode.IMAGE and isinstance(edit.segments[-2], ImageSegment)
    assert visit.order() == ["picture"]


def test_what_was_said_before_goes_along(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    for _ in range(2):
        visit.ask(STORY)
        visit.wait_for_the_end()
        visit.page.get_by_role("button", name="Send").wait_for()
    first, second = front.engine.requests
    pictures = [segment for segment in second.segments if isinstance(segment, ImageSegment)]
    assert len(first.segments) == 1 and len(pictures) == len(PANELS)


def test_stop_ends_the_answer_and_the_work(pausing_front: RunningFront, visit: Visit) -> None:
    visit.open(pausing_front.url)
    visit.ask(STORY)
    visit.page.locator(".done ~ .drawing").wait_for()
    visit.page.get_by_role("button", name="Stop the answer").click()
    expect(visit.page.locator(".foot")).to_contain_text("stopped")
    pausing_front.engine.wait_until(lambda: len(pausing_front.engine.aborted) == 1)
    assert visit.order() == TOLD[:3]


def test_again_asks_the_same_in_the_same_place(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    visit.ask(STORY)
    visit.wait_for_the_end()
    visit.page.get_by_role("button", name="Again").click()
    front.engine.wait_for_requests(2)
    visit.wait_for_the_end()
    assert visit.page.locator(".turn").count() == 1 and visit.order() == TOLD
    assert front.engine.requests[0].segments == front.engine.requests[1].segments


def test_a_reload_in_mid_answer_loses_nothing(pausing_front: RunningFront, visit: Visit) -> None:
    visit.open(pausing_front.url)
    visit.ask(STORY)
    visit.page.locator(".done ~ .drawing").wait_for()
    visit.page.reload()
    visit.page.locator(".done ~ .drawing").wait_for()
    pausing_front.engine.release()
    visit.wait_for_the_end()
    assert visit.order() == TOLD
    assert len(pausing_front.engine.requests) == 1


def test_settings_reach_the_engine_and_outlive_a_reload(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    visit.page.get_by_role("button", name="Settings", exact=True).click()
    visit.page.get_by_label("Denoise steps", exact=True).fill("20")
    visit.page.get_by_label("Seed").fill("42")
    visit.page.get_by_label("Answer with").select_option("image")
    visit.page.get_by_role("button", name="Close settings").click()
    visit.page.reload()
    visit.page.locator(".dot.ready").wait_for()
    visit.ask("a red star")
    visit.wait_for_the_end()
    (request,) = front.engine.requests
    assert (request.image.num_timesteps, request.image.seed, request.mode) == (20, 42, OutputMode.IMAGE)


def test_history_brings_a_conversation_back(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    visit.ask(STORY)
    visit.wait_for_the_end()
    visit.page.get_by_role("button", name="New").click()
    expect(visit.page.locator(".turn")).to_have_count(0)
    visit.page.get_by_role("button", name="History", exact=True).click()
    visit.page.locator("#past").get_by_role("button", name=STORY).first.click()
    expect(visit.page.locator(".done")).to_have_count(len(PANELS))
    assert visit.order() == TOLD


def test_the_code_shown_makes_the_same_request(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    visit.ask(STORY)
    visit.wait_for_the_end()
    visit.page.get_by_role("button", name="Code").click()
    shown = visit.page.get_by_label("curl code")
    expect(shown).to_contain_text(f"curl -N {front.url}/v1/chat/completions")
    expect(shown).to_contain_text(STORY)
    visit.page.keyboard.press("Tab")
    visit.page.get_by_role("tab", name="Python").click()
    expect(visit.page.get_by_label("Python code")).to_contain_text("from openai import OpenAI")


@pytest.mark.parametrize("host", ["127.0.0.1", FAR_HOST], ids=["on this machine", "over plain http from another"])
def test_copied_code_is_the_whole_of_it_with_its_pictures(chromium: Browser, front: RunningFront, host: str) -> None:
    """Over plain http beyond this machine a page has no ``navigator.clipboard``, and Copy did nothing."""
    with visiting(chromium) as visit:
        visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        visit.open(front.url.replace("127.0.0.1", host))
        assert visit.page.evaluate("isSecureContext") is (host != FAR_HOST)
        drop(visit.page, a_picture())
        visit.page.locator(".chip img").wait_for()
        visit.ask(STORY)
        visit.wait_for_the_end()
        visit.page.get_by_role("button", name="Code").click()
        visit.page.get_by_role("button", name="Copy").click()
        expect(visit.page.locator("#code-copy")).to_have_text("Copied")
        visit.page.keyboard.press("Escape")
        visit.page.get_by_label("Message", exact=True).press("Control+v")
        pasted = visit.page.get_by_label("Message", exact=True).input_value()
        assert pasted.startswith(f"curl -N http://{host}:") and pasted.endswith("}'\n")
        assert len(re.findall(r"data:image/\w+;base64,[A-Za-z0-9+/=]{100,}", pasted)) == 1
        forget_what_plain_http_costs(visit)


def test_code_that_cannot_be_copied_is_selected_for_the_reader_to_copy(front: RunningFront, visit: Visit) -> None:
    visit.page.add_init_script("document.execCommand = () => false")
    visit.open(front.url.replace("127.0.0.1", FAR_HOST))
    visit.ask(STORY)
    visit.wait_for_the_end()
    visit.page.get_by_role("button", name="Code").click()
    visit.page.get_by_role("button", name="Copy").click()
    expect(visit.page.locator("#code-copy")).to_have_text("Selected: Ctrl-C copies")
    assert visit.page.evaluate("getSelection().toString()").startswith("curl -N http")
    forget_what_plain_http_costs(visit)


def forget_what_plain_http_costs(visit: Visit) -> None:
    """The browser says that it ignores a header there, which is no fault of the page."""
    visit.complaints[:] = [complaint for complaint in visit.complaints if "Cross-Origin-Opener-Policy" not in complaint]


def test_everything_can_be_done_from_the_keyboard(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    visit.page.keyboard.type(STORY)
    visit.page.keyboard.press("Enter")
    visit.wait_for_the_end()
    visit.page.get_by_role("button", name="Edit this picture").first.press("Enter")
    visit.page.keyboard.type("make it blue")
    visit.page.keyboard.press("Enter")
    visit.page.locator(".turn").nth(1).locator(".done").wait_for()


def test_an_error_is_said_on_the_page(visit: Visit) -> None:
    with running_front(ScriptedEngine(tell), Settings(max_pictures=1), family="interleaved") as front:
        visit.open(front.url)
        for _ in range(2):
            drop(visit.page, a_picture())
            visit.page.locator(".chip").first.wait_for()
        drop(visit.page, base64.b64decode("aGVsbG8="))
        expect(visit.page.get_by_role("alert")).to_contain_text("cannot be read")


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390], ids=["desktop", "phone"])
def test_axe_finds_nothing_to_complain_of(chromium: Browser, pausing_front: RunningFront, width: int, is_dark: bool) -> None:
    with visiting(chromium, width=width, is_dark=is_dark) as visit:
        visit.open(pausing_front.url)
        assert_accessible(visit.page)
        visit.ask(STORY)
        visit.page.locator(".drawing img[src^='data:image/webp']").wait_for()
        assert_accessible(visit.page)
        pausing_front.engine.release()
        visit.wait_for_the_end()
        visit.page.get_by_role("button", name="Edit this picture").first.click()
        assert_accessible(visit.page)
        for name in ("Settings", "History", "Code"):
            visit.page.get_by_role("button", name=name, exact=True).click()
            # History is read from the browser's store before its drawer opens, and only then is there an animation to wait for.
            visit.page.locator("dialog[open]").wait_for()
            assert_accessible(visit.page)
            visit.page.keyboard.press("Escape")


FINITE_ANIMATIONS_OVER = """() => Promise.all(
    document.getAnimations()
        .filter((animation) => animation.effect.getTiming().iterations === 1)
        .map((animation) => animation.finished.catch(() => null)))"""


def assert_accessible(page: Page) -> None:
    """Let axe judge the page once it stands still: colours halfway into view are no colours of ours."""
    page.evaluate(FINITE_ANIMATIONS_OVER)
    result = Axe().run(page)
    assert result.violations_count == 0, result.generate_report()


def test_the_page_is_light_and_asks_nobody_but_its_own_server(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    visit.page.wait_for_load_state("networkidle")
    assert 10_000 < visit.num_bytes() <= MAX_TRANSFER_BYTES
    visit.ask(STORY)
    visit.wait_for_the_end()
    assert [request.url for request in visit.requests if not request.url.startswith((f"{front.url}/", "data:", "blob:"))] == []


def test_the_page_fits_a_phone_without_scrolling_sideways(chromium: Browser, front: RunningFront) -> None:
    with visiting(chromium, width=360, height=740) as visit:
        visit.open(front.url)
        visit.ask(STORY)
        visit.wait_for_the_end()
        assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_strict_policy_guards_the_page_and_a_second_visit_costs_nothing(front: RunningFront) -> None:
    with front.http() as http:
        page = http.get("/")
        again = http.get("/", headers={"if-none-match": page.headers["etag"]})
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert (again.status_code, again.content) == (304, b"")
