"""Prefill chunks: how much of a context's missing segments goes into one row. Text is divisible, an image segment is atomic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from server.engine.batch import Draw, Piece, PrefillRow, TextPiece
from server.engine.segments import DroppedImage, PictureSegment, TextTokens
from server.engine.sequence import Fill


@dataclass(slots=True)
class Chunk:
    """Pieces for one prefill row, and how many segments they complete. Nothing is changed until `apply`."""

    pieces: list[Piece] = field(default_factory=list)
    num_rows: int = 0
    num_segments: int = 0
    completes: bool = False

    def apply(self, fill: Fill, sequence_id: int, draw: Draw | None) -> PrefillRow | None:
        """Advance the context by this chunk and return its row, or None when it holds positions but no rows.

        The context must have room for ``num_rows`` rows.
        """
        context = fill.context
        start_len, start_pos = context.kv_len, context.rope_pos
        rows_left = self.num_rows
        for segment in fill.segments[len(context.marks) :][: self.num_segments]:
            num_rows = segment.num_rows - context.open_rows
            context.advance(num_rows, num_rows if isinstance(segment, TextTokens) else segment.num_positions)
            context.close(segment.uid)
            rows_left -= num_rows
        context.advance(rows_left, rows_left)
        if not self.num_rows:
            return None
        return PrefillRow(sequence_id, context.pages, start_len, start_pos, self.pieces, draw)


def take_chunk(fill: Fill, budget: int, *, may_exceed: bool, is_ready: Callable[[PictureSegment], bool]) -> Chunk:
    """Take as much of what ``fill`` misses as ``budget`` query tokens allow.

    Args:
        fill: an unfinished fill.
        budget: query tokens; may be zero or negative, then only positions without rows are taken.
        may_exceed: whether a single image segment larger than the budget may be taken if it comes first.
        is_ready: whether an image segment may be taken at all.
    """
    chunk = Chunk()
    start = len(fill.context.marks)
    offset = fill.context.open_rows
    for segment in fill.segments[start:]:
        if isinstance(segment, DroppedImage):
            chunk.pieces.append(segment)
            chunk.num_segments += 1
            continue
        left = budget - chunk.num_rows
        if isinstance(segment, TextTokens):
            taken = segment.token_ids[offset : offset + max(0, left)]
            if taken:
                _append_text(chunk, taken)
            if offset + len(taken) < segment.num_rows:
                return chunk
            offset = 0
        elif is_ready(segment) and (segment.num_rows <= left or (may_exceed and not chunk.num_rows)):
            chunk.pieces.append(segment)
            chunk.num_rows += segment.num_rows
        else:
            return chunk
        chunk.num_segments += 1
    taken = fill.open_ids[offset : offset + max(0, budget - chunk.num_rows)]
    if taken:
        _append_text(chunk, taken)
    chunk.completes = offset + len(taken) >= len(fill.open_ids)
    return chunk


def _append_text(chunk: Chunk, token_ids: tuple[int, ...]) -> None:
    chunk.pieces.append(TextPiece(token_ids))
    chunk.num_rows += len(token_ids)
