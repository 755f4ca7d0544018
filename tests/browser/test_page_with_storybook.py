"""The page at ``/`` with nothing played: ``plait serve`` as it starts by default, its real engine and the model that comes with it.

What stands on the page is read back by the judge, who knows what a picture of the storybook's world shows.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from loadtests.fleet.replica import served
from model.storybook.judge import Reading, read
from model.storybook.scenes import MIDDLE, Background, Colour, Pixels, Shape, Size, Thing, draw, make_scene
from model.storybook.stories import read_story
from tests.browser.conftest import Visit, drop, visiting
from tests.browser.test_page import MAX_TRANSFER_BYTES, assert_accessible
from tests.end_to_end.conftest import SMALL

STORY = "tell a story about a small red star"
NUM_PANELS = 3
DROPPED = make_scene([Thing(Shape.CIRCLE, Colour.RED, Size.BIG, MIDDLE)], Background.DAY)
EDIT = "make the circle blue"
EDITED = make_scene([Thing(Shape.CIRCLE, Colour.BLUE, Size.BIG, MIDDLE)], Background.DAY)

PARTS_SO_FAR_AND_RELOAD = """() => {
    const count = document.querySelectorAll(".done").length;
    location.reload();
    return count;
}"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(*SMALL) as server:
        yield server.url


def seen(picture: Locator) -> Reading:
    """Return what a picture on the page shows."""
    encoded = str(picture.get_attribute("src")).partition("base64,")[2]
    return read(np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")))


def as_file(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def set_up(page: Page, *, num_steps: int) -> None:
    """Ask for pictures of many steps, so that there is something to watch, and for the same answer each time."""
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Denoise steps", exact=True).fill(str(num_steps))
    page.get_by_label("Seed").fill("1")
    page.get_by_role("button", name="Close settings").click()


def assert_the_story_is_told_and_shown(visit: Visit) -> None:
    """Words and pictures alternate, and each picture shows what its words say."""
    order = visit.order()
    assert order[1::2] == ["picture"] * NUM_PANELS and len(order) == 2 * NUM_PANELS
    told = read_story(order[::2])
    pictures = visit.page.locator(".turn").last.locator(".done img")
    assert [seen(picture).shows(scene) for picture, scene in zip(pictures.all(), told, strict=True)] == [True] * NUM_PANELS


def test_a_story_is_told_with_previews_and_then_its_pictures_in_order(url: str, visit: Visit) -> None:
    visit.open(url)
    assert visit.num_bytes() <= MAX_TRANSFER_BYTES
    set_up(visit.page, num_steps=100)
    visit.ask(STORY)
    visit.page.locator(".drawing img[src^='data:image/webp']").wait_for()
    visit.wait_for_the_end()
    assert_the_story_is_told_and_shown(visit)
    assert [request.url for request in visit.requests if not request.url.startswith((f"{url}/", "data:", "blob:"))] == []


def test_a_dropped_picture_is_edited_as_the_words_say(url: str, visit: Visit) -> None:
    visit.open(url)
    drop(visit.page, as_file(draw(DROPPED)))
    visit.page.locator(".chip img").wait_for()
    visit.ask(EDIT)
    visit.wait_for_the_end()
    assert visit.page.locator(".given").count() == 1
    assert seen(visit.page.locator(".done img").last).shows(EDITED)


def test_a_drawn_picture_is_edited_by_clicking_it(url: str, visit: Visit) -> None:
    visit.open(url)
    visit.ask("a big red circle in the middle by day")
    visit.wait_for_the_end()
    visit.page.get_by_role("button", name="Edit this picture").click()
    visit.ask(EDIT)
    visit.page.locator(".turn").nth(1).locator(".done").wait_for()
    assert seen(visit.page.locator(".done img").last).shows(EDITED)


def test_after_a_reload_in_mid_answer_the_rest_arrives(url: str, visit: Visit) -> None:
    visit.open(url)
    set_up(visit.page, num_steps=100)
    visit.ask(STORY)
    visit.page.locator(".drawing img[src^='data:image/webp']").wait_for()
    assert visit.page.evaluate(PARTS_SO_FAR_AND_RELOAD) < NUM_PANELS
    visit.page.locator(".dot.ready").wait_for()
    expect(visit.page.locator(".done")).to_have_count(NUM_PANELS)
    visit.wait_for_the_end()
    assert_the_story_is_told_and_shown(visit)


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390], ids=["desktop", "phone"])
def test_axe_has_nothing_to_say_of_a_real_story(chromium: Browser, url: str, width: int, is_dark: bool) -> None:
    with visiting(chromium, width=width, is_dark=is_dark) as visit:
        visit.open(url)
        visit.ask(STORY)
        visit.wait_for_the_end()
        assert_accessible(visit.page)
