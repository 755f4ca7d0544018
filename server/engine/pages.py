"""The page pool: which KV pages are free and how many contexts hold each of the others.

Pure bookkeeping, no tensors. A page is owned by one or more contexts; it is written only while one context holds it, and copied
first (copy-on-write) when several do.
"""

from __future__ import annotations


class OutOfPages(Exception):
    """Fewer pages are free than were asked for; nothing was taken."""


class PagePool:
    """Reference-counted pages ``0 .. num_pages-1`` of ``page_size`` slots each."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        if num_pages < 1 or page_size < 1:
            raise ValueError(f"a pool needs at least one page of at least one slot, got {num_pages} pages of {page_size}")
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(range(num_pages - 1, -1, -1))
        self._num_owners = [0] * num_pages

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_pages - len(self._free)

    def pages_for(self, num_rows: int) -> int:
        """Count the pages that ``num_rows`` rows fill, the last one perhaps in part."""
        return -(-num_rows // self.page_size)

    def allocate(self, num_pages: int) -> list[int]:
        """Take ``num_pages`` free pages, each with one owner.

        Raises:
            OutOfPages: when fewer are free; then none is taken.
        """
        if num_pages > len(self._free):
            raise OutOfPages(f"{num_pages} pages wanted, {len(self._free)} of {self.num_pages} free")
        taken = [self._free.pop() for _ in range(num_pages)]
        for page in taken:
            self._num_owners[page] = 1
        return taken

    def share(self, pages: list[int]) -> None:
        """Add one owner to each of ``pages``."""
        for page in pages:
            assert self._num_owners[page] > 0, f"page {page} is free and cannot be shared"
            self._num_owners[page] += 1

    def release(self, pages: list[int]) -> None:
        """Take one owner from each of ``pages``; a page without owners is free again."""
        for page in pages:
            assert self._num_owners[page] > 0, f"page {page} is released more often than it was taken"
            self._num_owners[page] -= 1
            if self._num_owners[page] == 0:
                self._free.append(page)

    def is_shared(self, page: int) -> bool:
        return self._num_owners[page] > 1
