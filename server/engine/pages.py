"""The page pool: which KV pages are free, how many contexts hold each of the others, and which are kept for prompts to come.

Pure bookkeeping, no tensors. A page is owned by one or more contexts; it is written only while one context holds it, and copied
first (copy-on-write) when several do. The prefix cache may vouch for the first rows of a page: those are never written again, and the
page stays as it is when its last owner lets go, until its room is needed. Such idle pages count as free.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

Pages = Sequence[int]
"""Pages in order: a list, or the table of a context."""


class OutOfPages(Exception):
    """Fewer pages are free than the ``num_wanted`` that were asked for; nothing was taken."""

    def __init__(self, num_wanted: int, message: str) -> None:
        super().__init__(message)
        self.num_wanted = num_wanted


class PagePool:
    """Reference-counted pages ``0 .. num_pages-1`` of ``page_size`` slots each."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        if num_pages < 1 or page_size < 1:
            raise ValueError(f"a pool needs at least one page of at least one slot, got {num_pages} pages of {page_size}")
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(range(num_pages - 1, -1, -1))
        self._num_owners = [0] * num_pages
        self._kept_rows = [0] * num_pages
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._on_evict: Callable[[int], None] = lambda page: None

    def on_evict(self, forget: Callable[[int], None]) -> None:
        """Have ``forget`` called with each kept page whose room is taken."""
        self._on_evict = forget

    @property
    def num_free(self) -> int:
        """Pages that can be had, idle ones included."""
        return len(self._free) + len(self._idle)

    @property
    def num_idle(self) -> int:
        """Pages without an owner that are kept for prompts to come."""
        return len(self._idle)

    @property
    def num_used(self) -> int:
        return self.num_pages - self.num_free

    def pages_for(self, num_rows: int) -> int:
        """Count the pages that ``num_rows`` rows fill, the last one perhaps in part."""
        return -(-num_rows // self.page_size)

    def allocate(self, num_pages: int) -> list[int]:
        """Take ``num_pages`` free pages, each with one owner; where need be, those idle the longest.

        Raises:
            OutOfPages: when fewer are free; then none is taken.
        """
        if num_pages > self.num_free:
            raise OutOfPages(num_pages, f"{num_pages} pages wanted, {self.num_free} of {self.num_pages} free")
        while len(self._free) < num_pages:
            self.evict(next(iter(self._idle)))
        taken = [self._free.pop() for _ in range(num_pages)]
        for page in taken:
            self._num_owners[page] = 1
        return taken

    def share(self, pages: Pages) -> None:
        """Add one owner to each of ``pages``, which others own or which are idle."""
        for page in pages:
            assert self._num_owners[page] > 0 or page in self._idle, f"page {page} is free and cannot be shared"
            self._idle.pop(page, None)
            self._num_owners[page] += 1

    def release(self, pages: Pages) -> None:
        """Take one owner from each of ``pages``; without owners a page is free again, or idle if it is kept.

        The last of them counts as idle the longest: a page is of no use without those before it.
        """
        for page in reversed(pages):
            if self._num_owners[page] <= 0:
                # Raised, not asserted: under python -O too, nobody shall get a page that somebody else still reads.
                raise AssertionError(f"page {page} is released more often than it was taken")
            self._num_owners[page] -= 1
            if self._num_owners[page] == 0:
                if self._kept_rows[page]:
                    self._idle[page] = None
                else:
                    self._free.append(page)

    def is_shared(self, page: int) -> bool:
        return self._num_owners[page] > 1

    def keep(self, page: int, num_rows: int) -> None:
        """Keep the first ``num_rows`` rows of an owned page as they are."""
        assert self._num_owners[page] > 0, f"page {page} is free and cannot be kept"
        self._kept_rows[page] = max(self._kept_rows[page], num_rows)

    def is_kept(self, page: int, row: int) -> bool:
        """Tell whether row ``row`` of a page must stay as it is."""
        return row < self._kept_rows[page]

    def evict(self, page: int) -> None:
        """Keep a page no longer; an idle one becomes free."""
        self._kept_rows[page] = 0
        self._on_evict(page)
        if page in self._idle:
            del self._idle[page]
            self._free.append(page)
