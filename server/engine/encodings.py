"""Pictures of prompts that are encoded beside the steps, so that nobody else's next token waits for an encoder.

Where there is an encoder beside, a picture is asked for once its sequence has come to it, and its rows wait until it has been encoded; the
words before it go on. Elsewhere, and where that fails, the step that takes its rows in encodes it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Protocol

from server.engine.segments import PictureKey, PictureSegment
from server.engine.sequence import Sequence

NUM_AHEAD = 2
"""So many of a sequence's pictures are encoded at a time: a drawn one is read twice, by the VAE and by the ViT."""
MAX_READY = 256
"""So many are known as encoded; one that is forgotten is asked for again."""


class EncoderBeside(Protocol):
    """What encodes pictures beside the steps, and keeps the results for a while."""

    def begin_encoding(self, image: PictureSegment) -> Callable[[], bool]:
        """Begin to encode a picture; return what tells, without waiting, whether a step may have its rows: from then on always."""
        ...


class Encodings:
    """Which pictures are encoded already. Without an ``encoder`` beside, none has to be."""

    def __init__(self) -> None:
        self.encoder: EncoderBeside | None = None
        self._ready: OrderedDict[PictureKey, None] = OrderedDict()
        self._under_way: dict[PictureKey, Callable[[], bool]] = {}

    def is_ready(self, image: PictureSegment) -> bool:
        """Tell whether a step may have the rows of a picture."""
        return self.encoder is None or image.key in self._ready

    def is_awaited(self, sequence: Sequence) -> bool:
        """Tell whether a sequence can take in nothing more before a picture has been encoded."""
        if self.encoder is None or not sequence.has_prompt_left:
            return False
        segment, _ = sequence.next_segment()
        return isinstance(segment, PictureSegment) and not self.is_ready(segment)

    def look(self) -> None:
        """Take note of what has been encoded by now."""
        for key in [key for key, is_done in self._under_way.items() if is_done()]:
            del self._under_way[key]
            self._note_ready(key)

    def ask(self, sequence: Sequence) -> None:
        """Have the next pictures encoded that a sequence misses."""
        if self.encoder is None:
            return
        missing = (segment for fill in sequence.fills for segment in fill.segments[len(fill.context.marks) :])
        for image in islice((segment for segment in missing if isinstance(segment, PictureSegment)), NUM_AHEAD):
            key = image.key
            if key in self._ready or key in self._under_way:
                continue
            is_done = self.encoder.begin_encoding(image)
            if is_done():
                self._note_ready(key)
            else:
                self._under_way[key] = is_done

    def _note_ready(self, key: PictureKey) -> None:
        self._ready[key] = None
        if len(self._ready) > MAX_READY:
            self._ready.popitem(last=False)
