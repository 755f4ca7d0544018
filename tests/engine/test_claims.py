"""Pages that a step is about to fill, while the next one is chosen already: nobody writes over what has been promised to the cache."""

from __future__ import annotations

from server.engine.context import Context
from server.engine.pages import PagePool
from server.engine.prefix_cache import Claim, Held, PrefixCache
from server.engine.segments import DroppedImage, TextTokens

PAGE_SIZE = 16
SHARED = TextTokens(0, (1, 7, 8, 2))
OURS = Held("", [SHARED, TextTokens(1, (1, 20, 21, 22, 23, 24, 25, 2))])
THEIRS = Held("", [SHARED, TextTokens(1, (1, 30, 31, 2))])


class Desk:
    """A pool, a cache, and contexts that are filled by hand."""

    def __init__(self, num_pages: int = 8) -> None:
        self.pool = PagePool(num_pages, PAGE_SIZE)
        self.cache = PrefixCache(self.pool, "model")

    def fill(self, context: Context, held: Held) -> list[Claim]:
        """Choose the step that takes in the next segment of ``context``; return what it will have filled."""
        segment = held.segments[len(context.marks)]
        context.reserve(self.pool, segment.num_rows)
        context.advance(segment.num_rows, segment.num_positions)
        context.close(segment.uid)
        return self.cache.extend(context, held, 0)

    def adopted(self, held: Held, max_rows: int) -> Context:
        context = Context()
        self.cache.adopt(context, held, max_rows)
        return context


def test_a_page_that_is_being_filled_is_not_written_by_whoever_adopts_its_beginning() -> None:
    """Ours writes on elsewhere meanwhile, so that the other has the page to itself when its turn comes."""
    desk, ours = Desk(), Context()
    desk.cache.settle(desk.fill(ours, OURS), are_filled=True)
    under_way = desk.fill(ours, OURS)
    theirs = desk.adopted(THEIRS, SHARED.num_rows)
    ours.reserve(desk.pool, 1)
    assert not desk.pool.is_shared(theirs.pages[0])

    (copy,) = theirs.reserve(desk.pool, 4)

    desk.cache.settle(under_way, are_filled=True)
    assert copy.target == theirs.pages[0]
    assert desk.adopted(OURS, 12).pages.tolist() == [copy.source], "what was asked for before is found where it was put"


def test_what_an_answer_wrote_is_not_gone_on_from_at_another_position() -> None:
    """A picture that is left out of a guidance context has moved the position on, and is no node of its own."""
    desk, ours, theirs = Desk(), Context(), Context()
    for context in (ours, theirs):
        desk.cache.settle(desk.fill(context, OURS), are_filled=True)
    ours.reserve(desk.pool, 5)
    ours.advance(5, 5)
    desk.cache.keep_tail(ours, Held("", [SHARED], (1, 20, 21, 22, 23)))
    theirs.close(DroppedImage(-3).uid)
    theirs.rope_pos += 1

    desk.cache.adopt(theirs, Held("", [SHARED, DroppedImage(-3), TextTokens(4, (1, 20, 21, 22, 23, 2))]), 100)

    assert theirs.kv_len == SHARED.num_rows


def test_a_page_that_is_given_to_somebody_else_before_the_step_is_done_is_not_found() -> None:
    desk, ours = Desk(num_pages=1), Context()
    under_way = desk.fill(ours, OURS)
    ours.release(desk.pool)
    desk.pool.allocate(1)

    desk.cache.settle(under_way, are_filled=True)

    assert len(desk.cache) == 0
    assert desk.adopted(OURS, 12).kv_len == 0


def test_a_page_that_has_been_let_go_of_before_the_step_is_done_is_found() -> None:
    desk, ours = Desk(), Context()
    under_way = desk.fill(ours, OURS)
    ours.release(desk.pool)

    desk.cache.settle(under_way, are_filled=True)

    assert desk.adopted(OURS, SHARED.num_rows).kv_len == SHARED.num_rows


def test_a_page_given_away_and_claimed_anew_is_found_as_what_it_was_claimed_for_last() -> None:
    desk, ours, others = Desk(num_pages=1), Context(), Context()
    under_way = desk.fill(ours, OURS)
    ours.release(desk.pool)
    later = desk.fill(others, Held("else", [SHARED]))

    desk.cache.settle(under_way, are_filled=True)
    desk.cache.settle(later, are_filled=True)

    assert len(desk.cache) == 1
    assert desk.adopted(Held("else", [SHARED]), SHARED.num_rows).kv_len == SHARED.num_rows
