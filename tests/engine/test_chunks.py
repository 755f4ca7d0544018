"""Prefill chunks: text is cut anywhere, an image segment nowhere."""

from __future__ import annotations

from server.engine.batch import TextPiece
from server.engine.chunks import take_chunk
from server.engine.context import Context
from server.engine.segments import ContextSegment, DroppedImage, TextTokens, VitImage
from server.engine.sequence import Fill
from tests.engine.fakes import grey

TEXT = TextTokens(1, (1, 10, 11, 12, 2))
IMAGE = VitImage(2, grey(32, 32), 2, 2)
AFTER = TextTokens(3, (1, 20, 2))


def fill(*segments: ContextSegment, open_ids: tuple[int, ...] = ()) -> Fill:
    return Fill(Context(), list(segments), open_ids)


def apply(target: Fill, budget: int, *, may_exceed: bool = False) -> int:
    chunk = take_chunk(target, budget, may_exceed=may_exceed, is_ready=lambda _: True)
    chunk.apply(target, 0, None)
    return chunk.num_rows


def test_several_segments_share_a_chunk() -> None:
    chunk = take_chunk(fill(TEXT, IMAGE, AFTER), 64, may_exceed=False, is_ready=lambda _: True)

    assert chunk.pieces == [TextPiece(TEXT.token_ids), IMAGE, TextPiece(AFTER.token_ids)]
    assert (chunk.num_rows, chunk.completes) == (14, True)


def test_text_is_cut_at_the_budget_and_goes_on_where_it_was_cut() -> None:
    target = fill(TEXT, AFTER)

    assert apply(target, 3) == 3
    chunk = take_chunk(target, 64, may_exceed=False, is_ready=lambda _: True)

    assert chunk.pieces == [TextPiece((12, 2)), TextPiece(AFTER.token_ids)]
    assert not target.is_done


def test_an_image_segment_is_never_split() -> None:
    target = fill(TEXT, IMAGE)

    assert apply(target, 8) == 5
    assert apply(target, 5) == 0
    assert apply(target, 6) == 6
    assert target.is_done


def test_an_image_larger_than_the_budget_is_taken_when_it_comes_first() -> None:
    target = fill(IMAGE)

    assert apply(target, 2, may_exceed=True) == 6


def test_positions_move_by_one_for_an_image_and_by_length_for_text() -> None:
    target = fill(TEXT, IMAGE, AFTER)
    apply(target, 64)

    assert (target.context.kv_len, target.context.rope_pos) == (14, 9)
    assert [(mark.uid, mark.kv_len, mark.rope_pos) for mark in target.context.marks] == [(1, 5, 5), (2, 11, 6), (3, 14, 9)]


def test_a_dropped_image_takes_a_position_and_no_row() -> None:
    target = fill(DroppedImage(-2), AFTER)

    assert apply(target, 64) == 3
    assert (target.context.kv_len, target.context.rope_pos) == (3, 4)


def test_an_open_text_is_taken_in_but_not_closed() -> None:
    target = fill(TEXT, open_ids=(1, 30, 31))

    assert apply(target, 64) == 8
    assert target.is_done
    assert (len(target.context.marks), target.context.open_rows) == (1, 3)


def test_rows_of_an_open_text_count_when_it_is_closed() -> None:
    target = fill(TEXT, open_ids=(1, 30))
    apply(target, 64)
    closing = Fill(target.context, [TEXT, TextTokens(4, (1, 30, 31, 2))])

    chunk = take_chunk(closing, 64, may_exceed=False, is_ready=lambda _: True)

    assert chunk.pieces == [TextPiece((31, 2))]
