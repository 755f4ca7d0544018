"""A real Chromium, and a page of it at a server's address, watched for what it loads and what it complains of."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.browser.storyteller import tell, tell_with_a_pause
from tests.server.running_front import RunningFront, running_front
from tests.server.scripted_engine import ScriptedEngine

FAR_HOST = "plait.test"
"""A name that leads to this machine and that the browser does not know to do so: over plain http it takes it for unsafe."""

LAUNCH = (
    f"--host-resolver-rules=MAP {FAR_HOST} 127.0.0.1",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DEADLINE_MS = 30_000


class Visit:
    """One visit of the page: what it asked for, what arrived, and what the browser complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[Request] = []
        self.complaints: list[str] = []
        page.set_default_timeout(DEADLINE_MS)
        page.on("requestfinished", lambda request: self.requests.append(request))
        page.on("console", lambda message: self._note(message))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def num_bytes(self) -> int:
        """Return how many bytes the server has sent so far, headers included."""
        sizes = [request.sizes() for request in self.requests]
        return sum(size["responseBodySize"] + size["responseHeadersSize"] for size in sizes)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self, url: str) -> None:
        """Go to the page and wait until it says that the server is ready."""
        self.page.goto(url)
        self.page.locator(".dot.ready").wait_for()

    def ask(self, words: str) -> None:
        """Type a message and send it, as one does: with Enter. It has gone once its field is empty."""
        field = self.page.get_by_label("Message", exact=True)
        field.fill(words)
        self.page.keyboard.press("Enter")
        expect(field).to_have_value("")

    def wait_for_the_end(self) -> None:
        """Wait until the answer is over: then another can be asked for."""
        self.page.get_by_role("button", name="Code").last.wait_for()
        self.page.get_by_role("button", name="Send").wait_for()

    def order(self) -> list[str]:
        """Return the last answer's pieces in the order they stand in: its words, and "picture" for each picture."""
        pieces = self.page.locator(".turn").last.locator(".body > *")
        return ["picture" if piece.evaluate("e => e.tagName") == "FIGURE" else piece.inner_text() for piece in pieces.all()]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Run a browser for one file of tests: while it is there, its event loop is in the way of tests that run one themselves."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(LAUNCH))
        yield browser
        browser.close()


@contextmanager
def visiting(chromium: Browser, *, width: int = 1200, height: int = 860, is_dark: bool = False) -> Iterator[Visit]:
    """Open a page with a clean profile; it must have nothing to complain of when it is left."""
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme="dark" if is_dark else "light")
    try:
        visit = Visit(context.new_page())
        yield visit
        assert visit.complaints == []
    finally:
        context.close()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Visit]:
    with visiting(chromium) as visit:
        yield visit


@pytest.fixture
def front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(tell, pace_s=0.01), family="interleaved") as front:
        yield front


@pytest.fixture
def pausing_front() -> Iterator[RunningFront]:
    with running_front(ScriptedEngine(tell_with_a_pause), family="interleaved") as front:
        yield front


def a_picture(width: int = 64, height: int = 64, shade: int = 10) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (250, 120, shade)).save(file, "PNG")
    return file.getvalue()


def drop(page: Page, content: bytes, name: str = "orange.png", media_type: str = "image/png") -> None:
    """Drop a file on the page, as a hand would."""
    page.evaluate(
        """([encoded, name, type]) => {
            const bytes = Uint8Array.from(atob(encoded), (char) => char.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type }));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        [base64.b64encode(content).decode("ascii"), name, media_type],
    )
