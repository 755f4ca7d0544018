"""A context: the pages, length and position of one guidance branch, and the segments it has taken in.

A context only grows, but for a row begun ahead that turns out not to be wanted (`run_ahead`). It is forked at a segment boundary: the
fork shares every page up to there, and whichever of the two first writes into the shared last page gets a copy of it. It also carries the
chain of keys under which its pages can be found again (`prefix_cache`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
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


@dataclass(frozen=True, slots=True)
class Node:
    """A point of a context with a key of everything before it: a page's end or a segment's.

    Attributes:
        num_segments: whole segments before it; open_rows: rows before it of the next one.
        is_resumable: whether a context can go on from here; inside an image segment it cannot.
    """

    key: bytes
    kv_len: int = 0
    rope_pos: int = 0
    num_segments: int = 0
    open_rows: int = 0
    is_resumable: bool = True


def page_table(pages: Iterable[int] = ()) -> array[int]:
    """Return a table of pages as 32-bit numbers: those of a whole step are joined by copying memory, not number by number."""
    return array("i", pages)


@dataclass(slots=True)
class Context:
    """Pages and counters of one branch.

    Attributes:
        pages: physical page of each logical page (`page_table`).
        kv_len: rows in the cache.
        rope_pos: the next shared position (spec 5.2: an image moves it by one, a text by its length).
        marks: one for each whole segment taken in.
        open_rows: rows of the segment after the last mark that are in already (a text in chunks, or being decoded).
        nodes: the segment ends among the nodes passed so far, and the latest node of all; empty where nothing is cached.
    """

    pages: array[int] = field(default_factory=page_table)
    kv_len: int = 0
    rope_pos: int = 0
    marks: list[Mark] = field(default_factory=list)
    open_rows: int = 0
    nodes: list[Node] = field(default_factory=list)

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
        must_copy = self._must_copy(pool, num_new)
        if not (num_new or must_copy):
            return []
        fresh = pool.allocate(num_new + int(must_copy))
        copies: list[PageCopy] = []
        if must_copy:
            last = self.kv_len // pool.page_size
            source, target = self.pages[last], fresh.pop()
            pool.release([source])
            self.pages[last] = target
            copies.append(PageCopy(source, target))
        self.pages.extend(fresh)
        return copies

    def _must_copy(self, pool: PagePool, num_new: int) -> bool:
        """Tell whether the page the next row goes to belongs to others too; with no page left for a copy, the cache gives way."""
        last, row = divmod(self.kv_len, pool.page_size)
        if last >= len(self.pages):
            return False
        page = self.pages[last]
        if pool.is_shared(page):
            return True
        if pool.is_kept(page, row) and pool.num_free <= num_new:
            pool.evict(page)
        return pool.is_kept(page, row)

    def advance(self, num_rows: int, num_positions: int) -> None:
        """Count ``num_rows`` rows of an unfinished text as taken in."""
        self.kv_len += num_rows
        self.rope_pos += num_positions
        self.open_rows += num_rows

    def retreat(self) -> None:
        """Take the latest row of an unfinished text back; its page stays."""
        self.kv_len -= 1
        self.rope_pos -= 1
        self.open_rows -= 1

    def close(self, uid: int) -> None:
        """Mark the segment ``uid`` as taken in whole."""
        self.marks.append(Mark(uid, self.kv_len, self.rope_pos))
        self.open_rows = 0

    def pass_node(self, node: Node) -> None:
        """Note that the context has come to ``node``; of the earlier ones only segment ends are of use."""
        if self.nodes and self.nodes[-1].open_rows:
            self.nodes.pop()
        self.nodes.append(node)

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
        nodes = [node for node in self.nodes if not node.open_rows and node.num_segments <= num_segments]
        return Context(pages, mark.kv_len, mark.rope_pos, self.marks[:num_segments], nodes=nodes)

    def adopt(self, pool: PagePool, pages: list[int], nodes: list[Node], segments: list[ContextSegment]) -> None:
        """Go on through ``nodes`` to the last of them, on ``pages`` that others have filled; ``segments`` is what it will hold.

        ``pages`` take the place of this context's from the one its next row would go to.
        """
        node = nodes[-1]
        first = self.kv_len // pool.page_size
        pool.share(pages)
        pool.release(self.pages[first:])
        self.pages[first:] = page_table(pages)
        for segment in segments[len(self.marks) : node.num_segments]:
            self.kv_len += segment.num_rows - self.open_rows
            self.rope_pos += segment.num_positions - self.open_rows
            self.close(segment.uid)
        self.open_rows = node.open_rows
        self.kv_len, self.rope_pos = node.kv_len, node.rope_pos
        for passed in nodes:
            self.pass_node(passed)

    def adopt_page(self, pool: PagePool, page: int, num_rows: int) -> None:
        """Go on by ``num_rows`` rows of a text, on a page that others have filled from this context's last node on."""
        first = self.kv_len // pool.page_size
        pool.share([page])
        pool.release(self.pages[first:])
        self.pages[first:] = page_table([page])
        self.advance(num_rows, num_rows)

    def release(self, pool: PagePool) -> None:
        """Give every page back and forget what was taken in."""
        pool.release(self.pages)
        self.pages, self.marks, self.nodes = page_table(), [], []
        self.kv_len = self.rope_pos = self.open_rows = 0
