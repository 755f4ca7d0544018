"""What a pool's pages hold as the device writes them, batch by batch in the order they begin in: no numbers, but what they follow from.

A row's content is what it was computed from: its token or its part of a picture, its position, and the content of the row before it. So a
row computed over rows that are not there, or are another's, has another content, and so has all that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from server.engine.batch import Batch, DecodeRow, DenoiseRow, PrefillRow, TextPiece
from server.engine.pages import Pages
from server.engine.segments import ContextSegment, DroppedImage, TextTokens
from server.engine.sequence import Sequence

SPOILT = -1
Writer = tuple[int, Pages, int, int, list[TextPiece | ContextSegment]]
"""Sequence, pages, first row, first position and pieces of a row that is kept."""


class WrittenPages:
    """Pages of ``page_size`` rows; ``drawn`` is the token that a sequence's draw of some number brings."""

    def __init__(self, page_size: int, drawn: Callable[[int, int], int]) -> None:
        self._page_size = page_size
        self._drawn = drawn
        self._rows: dict[int, int] = {}

    def begin(self, batch: Batch, running: Iterable[Sequence]) -> None:
        """Copy and write what ``batch`` says; every row of it sees just what its context should hold."""
        for copy in batch.copies:
            for row in range(self._page_size):
                self._rows[copy.target * self._page_size + row] = self._rows.get(copy.source * self._page_size + row, SPOILT)
        by_id = {sequence.sequence_id: sequence for sequence in running}
        readers: list[DecodeRow | PrefillRow | DenoiseRow] = [*batch.decodes, *batch.prefills]
        readers += [row for step in batch.denoises for row in step.rows]
        for read in readers:
            seen = [self._rows.get(self._slot(read.pages, place)) for place in range(read.kv_len)]
            assert seen == _content_of(by_id[read.sequence_id], read.pages)[: read.kv_len]
        for _, pages, start, position, pieces in self._writers(batch):
            before = self._rows[self._slot(pages, start - 1)] if start else 0
            for place, content in enumerate(_follow(before, position, pieces), start):
                self._rows[self._slot(pages, place)] = content

    def spoil(self, batch: Batch, sequence_id: int) -> None:
        """Undo what a sequence has written in ``batch``: its step failed."""
        for writer, pages, start, position, pieces in self._writers(batch):
            for place in range(start, start + len(_follow(0, position, pieces)) * (writer == sequence_id)):
                self._rows[self._slot(pages, place)] = SPOILT

    def _slot(self, pages: Pages, place: int) -> int:
        return pages[place // self._page_size] * self._page_size + place % self._page_size

    def _writers(self, batch: Batch) -> list[Writer]:
        writers: list[Writer] = []
        for row in batch.decodes:
            token_id = self._drawn(row.sequence_id, row.draw.index - 1) if row.token_id is None else row.token_id
            writers.append((row.sequence_id, row.pages, row.kv_len, row.rope_pos, [TextPiece((token_id,))]))
        writers += [(row.sequence_id, row.pages, row.kv_len, row.rope_pos, [*row.pieces]) for row in batch.prefills]
        return writers


def _content_of(sequence: Sequence, pages: Pages) -> list[int]:
    """Return what the context with these pages should hold by now, and beyond."""
    index = next(k for k, context in enumerate((sequence.full, *sequence.branches)) if context.pages is pages)
    if index == 0:
        return _follow(0, 0, [*sequence.history, TextPiece(tuple(sequence.open_ids))])
    assert sequence.image is not None
    return _follow(0, 0, sequence.image.plan.segments[index])


def _follow(before: int, position: int, pieces: Iterable[TextPiece | ContextSegment]) -> list[int]:
    """Return the contents of the rows of ``pieces``, the first of which follows a row of content ``before``."""
    contents: list[int] = []
    for piece in pieces:
        if isinstance(piece, TextPiece | TextTokens):
            for offset, token_id in enumerate(piece.token_ids):
                before = hash((before, token_id, position + offset))
                contents.append(before)
        elif not isinstance(piece, DroppedImage):
            contents += [hash((before, type(piece), piece.digest, position, row)) for row in range(piece.num_rows)]
            before = contents[-1]
        position += piece.num_positions
    return contents
