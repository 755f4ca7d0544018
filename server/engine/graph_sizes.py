"""Which sizes of decode steps are captured as graphs. Numbers alone, for the memory plan too; imports no torch."""

from __future__ import annotations

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
"""Rows of a graph. Steps of more rows are run as they are: their products last longer than their launches."""
CONTEXT_ROWS = 2048
"""Cache rows there is room for, for each row of a graph on average; steps over more get graphs of their own, twice as large each."""
MAX_GRAPHS = 24
"""Of all sizes together; the one that was used the longest ago makes room."""

Size = tuple[int, int]
"""Rows and pages."""


def size_for(num_rows: int, num_pages: int, page_size: int) -> Size | None:
    """Return the size of graph that serves a step of so many rows over so many pages, None where there are too many rows."""
    rows = rows_for(num_rows)
    if rows is None:
        return None
    room = pages_of(rows, page_size)
    return rows, room if num_pages <= room else 1 << (num_pages - 1).bit_length()


def rows_for(num_rows: int) -> int | None:
    """Return the rows of the graph that serves ``num_rows``."""
    return next((rows for rows in ROWS if rows >= num_rows), None)


def pages_of(rows: int, page_size: int) -> int:
    """Return the pages there is room for in a graph of so many rows, at least."""
    return rows * -(-CONTEXT_ROWS // page_size)
