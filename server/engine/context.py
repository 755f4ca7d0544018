"""A context: the pages, length and position of one guidance branch, and the segments it has taken in.

A context only grows. It is forked at a segment boundary: the fork shares every page up to there, and whichever of the two first
writes into the shared last page gets a copy of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from server.engine.pages import PagePool
from server.engine.segments import ContextSegment


@dataclass(frozen=True, slots=True)
class PageCopy:
    """Copy the whole page ``source`` to ``target`` before anything is written."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Mark:
    """The state of a context right after the segment ``uid``."""

    uid: int
    kv_len: int
    rope_pos: int


@dataclass(slots=True)
class Context:
    """Pages and counters of one branch.

    Attributes:
        pages: physical page of each logical page.
        kv_len: rows in the cache.
        rope_pos: the next shared position (spec 5.2: an image moves it by one, a text by its length).
        marks: one for each whole segment taken in.
        open_rows: rows of the segment after the last mark that are in already (a text in chunks, or being decoded).
    """

    pages: list[int] = field(default_factory=list)
    kv_len: int = 0
    rope_pos: int = 0
    marks: list[Mark] = field(default_factory=list)
    open_rows: int = 0

    def reserve(self, pool: PagePool, num_rows: int) -> list[PageCopy]:
        """Make room for ``num_rows`` more rows and make the page they start in this context's own.

        Returns:
            The page copies the runner must do first.

        Raises:
            OutOfPages: when the pool is too empty; then nothing has changed.
        """
        if num_rows == 0:
            return []
        num_new = max(0, pool.pages_for(self.kv_len + num_rows) - len(self.pages))
        last = self.kv_len // pool.page_size
        must_copy = last < len(self.pages) and pool.is_shared(self.pages[last])
        fresh = pool.allocate(num_new + int(must_copy))
        copies: list[PageCopy] = []
        if must_copy:
            source, target = self.pages[last], fresh.pop()
            pool.release([source])
            self.pages[last] = target
            copies.append(PageCopy(source, target))
        self.pages.extend(fresh)
        return copies

    def advance(self, num_rows: int, num_positions: int) -> None:
        """Count ``num_rows`` rows of an unfinished text as taken in."""
        self.kv_len += num_rows
        self.rope_pos += num_positions
        self.open_rows += num_rows

    def close(self, uid: int) -> None:
        """Mark the segment ``uid`` as taken in whole."""
        self.marks.append(Mark(uid, self.kv_len, self.rope_pos))
        self.open_rows = 0

    def common_segments(self, segments: list[ContextSegment]) -> int:
        """Count how many of ``segments``, from the first on, this context has taken in."""
        count = 0
        for mark, segment in zip(self.marks, segments, strict=False):
            if mark.uid != segment.uid:
                break
            count += 1
        return count

    def fork(self, pool: PagePool, num_segments: int) -> Context:
        """Return a context of the first ``num_segments`` segments that shares this one's pages."""
        if num_segments == 0:
            return Context()
        mark = self.marks[num_segments - 1]
        pages = self.pages[: pool.pages_for(mark.kv_len)]
        pool.share(pages)
        return Context(list(pages), mark.kv_len, mark.rope_pos, self.marks[:num_segments])

    def release(self, pool: PagePool) -> None:
        """Give every page back and forget what was taken in."""
        pool.release(self.pages)
        self.pages, self.marks = [], []
        self.kv_len = self.rope_pos = self.open_rows = 0
