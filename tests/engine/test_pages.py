"""The page pool counts owners; contexts grow, fork and copy on write."""

from __future__ import annotations

import pytest

from server.engine.context import Context, PageCopy
from server.engine.pages import OutOfPages, PagePool


def test_pages_come_back_when_the_last_owner_lets_go() -> None:
    pool = PagePool(4, 16)
    pages = pool.allocate(3)
    pool.share(pages[:1])

    pool.release(pages)

    assert pool.num_free == 3
    pool.release(pages[:1])
    assert pool.num_free == 4


def test_asking_for_too_many_pages_takes_none() -> None:
    pool = PagePool(4, 16)

    with pytest.raises(OutOfPages):
        pool.allocate(5)

    assert pool.num_free == 4


def test_releasing_a_free_page_is_noticed() -> None:
    pool = PagePool(2, 16)
    page = pool.allocate(1)
    pool.release(page)

    with pytest.raises(AssertionError, match="released more often"):
        pool.release(page)


@pytest.mark.parametrize(("num_rows", "num_pages"), [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (32, 2)])
def test_a_context_takes_the_pages_its_rows_need(num_rows: int, num_pages: int) -> None:
    pool, context = PagePool(8, 16), Context()

    context.reserve(pool, num_rows)

    assert len(context.pages) == num_pages


def filled(pool: PagePool, num_rows: int, uid: int = 1) -> Context:
    context = Context()
    context.reserve(pool, num_rows)
    context.advance(num_rows, num_rows)
    context.close(uid)
    return context


def test_a_fork_shares_pages_and_counters() -> None:
    pool = PagePool(8, 4)
    context = filled(pool, 6)

    fork = context.fork(pool, 1)

    assert (fork.pages, fork.kv_len, fork.rope_pos) == (context.pages, 6, 6)
    assert pool.num_used == 2


def test_writing_into_a_shared_last_page_copies_it_first() -> None:
    pool = PagePool(8, 4)
    context = filled(pool, 6)
    fork = context.fork(pool, 1)

    copies = fork.reserve(pool, 1)

    assert copies == [PageCopy(context.pages[1], fork.pages[1])]
    assert fork.pages[0] == context.pages[0]
    assert context.reserve(pool, 1) == [], "the page is the first context's own again"


def test_a_full_last_page_is_not_copied() -> None:
    pool = PagePool(8, 4)
    context = filled(pool, 8)
    fork = context.fork(pool, 1)

    assert fork.reserve(pool, 1) == []
    assert fork.pages[:2] == context.pages


def test_a_fork_at_an_earlier_boundary_holds_only_the_pages_up_to_it() -> None:
    pool = PagePool(8, 4)
    context = filled(pool, 3)
    context.reserve(pool, 7)
    context.advance(7, 7)
    context.close(2)

    fork = context.fork(pool, 1)

    assert (fork.pages, fork.kv_len) == (context.pages[:1], 3)


def test_a_reservation_that_fails_changes_nothing() -> None:
    pool = PagePool(3, 4)
    context = filled(pool, 6)
    fork = context.fork(pool, 1)

    with pytest.raises(OutOfPages):
        fork.reserve(pool, 4)

    assert fork.pages == context.pages
    assert pool.num_free == 1


def test_every_page_is_free_after_release() -> None:
    pool = PagePool(8, 4)
    context = filled(pool, 6)
    fork = context.fork(pool, 1)
    fork.reserve(pool, 5)

    context.release(pool)
    fork.release(pool)

    assert pool.num_free == 8
