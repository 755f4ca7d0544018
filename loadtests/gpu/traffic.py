"""Pictures and chats that go on for long, for measurements of steady steps."""

from __future__ import annotations

from dataclasses import dataclass

from loadtests.gpu.random_engine import chat_request, picture_request, step
from server.engine.process import LoadedEngine

NUM_SETTLING_STEPS = 10
"""After all are under way, before the steps count."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """So many pictures of so many pixels a side, and chats over contexts of so many tokens."""

    side: int
    num_pictures: int
    num_chats: int
    num_context: int = 10

    @property
    def name(self) -> str:
        pictures = f"a picture of {self.side}" if self.num_pictures == 1 else f"{self.num_pictures} pictures of {self.side}"
        chats = "a chat" if self.num_chats == 1 else f"{self.num_chats} chats"
        return " beside ".join(name for name, num in ((pictures, self.num_pictures), (chats, self.num_chats)) if num)

    def begin(self, loaded: LoadedEngine) -> None:
        """Ask for all of it, and step until all of it is under way; with a target words and pictures need not share a step for that."""
        for number in range(self.num_chats):
            loaded.engine.submit(chat_request(f"chat {number}", self.num_context, 10_000))
        for number in range(self.num_pictures):
            loaded.engine.submit(picture_request(f"picture {number}", self.side, 1000))
        is_decoding, is_drawing = not self.num_chats, not self.num_pictures
        while not (is_decoding and is_drawing):
            stats = step(loaded)
            is_decoding |= stats.num_decode_rows == self.num_chats
            is_drawing |= stats.num_denoise_rows > 0
        for _ in range(NUM_SETTLING_STEPS):
            step(loaded)
