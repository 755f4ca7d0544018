"""The worker processes of a test's own process, by what they run."""

from __future__ import annotations

import psutil


def workers_running(module: str) -> list[psutil.Process]:
    """Return those that run ``module``, the latest last; numbers of processes begin anew, so that they say nothing of that."""
    found = []
    for child in psutil.Process().children():
        try:
            if any(module in word for word in child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue  # it has ended, if nobody has asked how
    return sorted(found, key=lambda child: child.create_time())
