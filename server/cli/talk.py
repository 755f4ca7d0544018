"""One conversation on a terminal: what was said so far, and one answer after the other, shown as it comes."""

from __future__ import annotations

import base64
import mimetypes
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from server.cli.command import Refused
from server.cli.openai_client import Chunk, OpenAiClient
from server.cli.progress import Progress
from server.cli.terminal_pictures import PictureOutlet, picture_of

PICTURE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")


@dataclass(slots=True)
class Talk:
    """Speaks to ``model`` with ``options`` in every request; answers go to ``out``, progress to ``progress``."""

    client: OpenAiClient
    model: str
    options: Mapping[str, object]
    outlet: PictureOutlet
    out: TextIO = field(default_factory=lambda: sys.stdout)
    progress: Progress = field(default_factory=lambda: Progress(sys.stderr))
    _messages: list[dict[str, object]] = field(default_factory=list)

    def ask(self, words: str, pictures: list[Path]) -> None:
        """Ask, show the answer as it comes, and remember both.

        Raises:
            Refused: by the server; the question is forgotten.
        """
        parts: list[dict[str, object]] = [{"type": "image_url", "image_url": {"url": data_uri(path)}} for path in pictures]
        content: object = [*parts, {"type": "text", "text": words}] if parts else words
        messages = [*self._messages, {"role": "user", "content": content}]
        body = {"model": self.model, "messages": messages, "stream": True, **self.options}
        answer = _Answer(self)
        try:
            for chunk in self.client.chat(body):
                answer.take(chunk)
        finally:
            answer.end()
        self._messages = [*messages, answer.message()]

    def forget(self) -> None:
        """Begin a new conversation."""
        self._messages = []


class _Answer:
    """One answer as it comes."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._parts: list[dict[str, object]] = []
        self._words = ""
        """What came since the last picture, not yet a part."""
        self._is_at_line_start = True

    def take(self, chunk: Chunk) -> None:
        if (drawing := chunk.image_progress) is not None:
            self._break_line()
            self._talk.progress.show(f"picture {drawing.index + 1}", drawing.step, drawing.num_steps)
        for choice in chunk.choices:
            if choice.delta.content:
                self._write(choice.delta.content)
            for image in choice.delta.images:
                self._show(image.image_url.url)

    def end(self) -> None:
        self._talk.progress.clear()
        self._break_line()

    def message(self) -> dict[str, object]:
        """Return the answer as the history of the next question: words and pictures in their order. The words between two pictures
        are one part, however many chunks they came in: servers read neighbouring parts as lines of their own."""
        self._close_words()
        return {"role": "assistant", "content": self._parts}

    def _write(self, text: str) -> None:
        self._talk.progress.clear()
        self._talk.out.write(text)
        self._talk.out.flush()
        self._is_at_line_start = text.endswith("\n")
        self._words += text

    def _show(self, url: str) -> None:
        self._talk.progress.clear()
        self._break_line()
        self._talk.outlet.take(picture_of(url))
        self._close_words()
        self._parts.append({"type": "image_url", "image_url": {"url": url}})

    def _close_words(self) -> None:
        if self._words:
            self._parts.append({"type": "text", "text": self._words})
            self._words = ""

    def _break_line(self) -> None:
        if not self._is_at_line_start:
            self._talk.out.write("\n")
            self._talk.out.flush()
            self._is_at_line_start = True


def data_uri(path: Path) -> str:
    """Return a picture file as a data URI.

    Raises:
        Refused: there is no such file, or its name is not that of a picture.
    """
    kind = mimetypes.guess_type(path.name)[0]
    if kind not in PICTURE_TYPES:
        raise Refused(f"{path}: pictures are .png, .jpg, .webp or .gif files")
    try:
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error
