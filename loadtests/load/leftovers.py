"""What a server may not keep when nobody asks it anything, read from its metrics."""

from __future__ import annotations

LEFT_BEHIND = ("plait_requests_in_flight", "plait_pages_used")


def left_behind(exposition: str) -> dict[str, float]:
    """Return the series of `LEFT_BEHIND` that are not zero."""
    rows = [line.split() for line in exposition.splitlines()]
    return {row[0]: float(row[1]) for row in rows if len(row) == 2 and row[0] in LEFT_BEHIND and float(row[1]) > 0}
