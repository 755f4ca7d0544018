"""How the page looks where the eye would stumble: shapes of pictures, places of buttons, lines that break."""

from __future__ import annotations

import base64
import io

from PIL import Image
from playwright.sync_api import Browser, FloatRect, Locator, expect

from tests.browser.conftest import Visit, a_picture, drop, visiting
from tests.server.running_front import RunningFront

PHONE_WIDTH = 375


def box(shown: Locator) -> FloatRect:
    found = shown.bounding_box()
    assert found is not None
    return found


def attach(visit: Visit, picture: bytes) -> None:
    num_before = visit.page.locator(".chip").count()
    drop(visit.page, picture)
    visit.page.locator(".chip").nth(num_before).wait_for()


def test_sent_pictures_stand_in_the_order_in_which_they_were_attached(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    for shade in (10, 120, 240):
        attach(visit, a_picture(shade=shade))
    attached = [str(chip.get_attribute("src")) for chip in visit.page.locator(".chip img").all()]
    visit.ask("what are these")
    visit.page.locator(".given").nth(2).wait_for()
    assert [given.get_attribute("src") for given in visit.page.locator(".given").all()] == attached
    assert box(visit.page.locator(".given").last)["y"] < box(visit.page.locator(".bubble p"))["y"]


def test_a_tall_picture_does_not_fill_the_page(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    attach(visit, a_picture(width=40, height=400))
    visit.ask("what is this")
    visit.page.locator(".given").wait_for()
    assert box(visit.page.locator(".given"))["height"] <= 160


def test_a_dropped_file_that_is_no_picture_is_named(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    drop(visit.page, b"hello", "notes.txt", "text/plain")
    expect(visit.page.get_by_role("alert")).to_have_text("notes.txt is no picture.")


def test_a_moving_picture_is_sent_as_its_first_frame_on_white(front: RunningFront, visit: Visit) -> None:
    frames = [Image.new("RGBA", (48, 48), colour) for colour in ("#ff000000", "#00ff00ff")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], disposal=2)
    visit.open(front.url)
    drop(visit.page, file.getvalue(), "moving.gif", "image/gif")
    sent = str(visit.page.locator(".chip img").get_attribute("src"))
    kind, _, encoded = sent.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as still:
        assert still.size == (48, 48)
        assert min(still.convert("L").tobytes()) > 250


def test_a_picture_that_the_browser_cannot_read_is_named(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    drop(visit.page, b"not a picture", "scan.bmp", "image/bmp")
    expect(visit.page.get_by_role("alert")).to_have_text("scan.bmp cannot be read.")


def test_lines_of_a_phone_break_nowhere_amiss(chromium: Browser, front: RunningFront) -> None:
    """The placeholder was cut in half, and Code stood alone under Again."""
    with visiting(chromium, width=PHONE_WIDTH, height=740) as visit:
        visit.open(front.url)
        visit.ask("a small red star")
        visit.wait_for_the_end()
        again, code = (box(visit.page.get_by_role("button", name=name)) for name in ("Again", "Code"))
        assert again["y"] == code["y"]
        visit.page.get_by_role("button", name="Edit this picture").last.click()
        prompt = visit.page.get_by_label("Message", exact=True)
        expect(prompt).to_have_attribute("placeholder", "Say what to change")
        assert prompt.evaluate("e => e.scrollHeight <= e.clientHeight")


def test_an_enlarged_picture_is_closed_at_its_right(front: RunningFront, visit: Visit) -> None:
    visit.open(front.url)
    visit.ask("a small red star")
    visit.wait_for_the_end()
    visit.page.get_by_role("button", name="Enlarge").last.click()
    dialog, cross = box(visit.page.locator("#viewer")), box(visit.page.get_by_role("button", name="Close the picture"))
    assert cross["x"] > dialog["x"] + dialog["width"] / 2
