"""Who has the processors while a thread computes beside the steps: see `kernels/native/pool.c`.

The C kernels' operations of that thread leave a processor when it is wanted for the steps, after the task they are at. What torch computes
by itself leaves none, so there has to be little of it.
"""

from __future__ import annotations

import ctypes

LATEST_S = 9e9
"""Later than any clock of a machine that runs shows, and still a number of nanoseconds."""


class NativeBeside:
    """That part of the opened library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._compute_beside = library.compute_beside
        self._compute_beside.argtypes, self._compute_beside.restype = [], None
        self._share_processors = library.share_processors
        self._share_processors.argtypes, self._share_processors.restype = [ctypes.c_int, ctypes.c_int], None
        self._help_beside = library.help_beside
        self._help_beside.argtypes, self._help_beside.restype = [ctypes.c_long, ctypes.POINTER(ctypes.c_int)], None

    def compute_beside(self) -> None:
        """Let this thread's operations use the processors that are left to what is beside the steps, from now on."""
        self._compute_beside()

    def share_processors(self, num_for_steps: int, num_beside: int) -> None:
        """Allow steps so many threads, at least one, and what is computed beside them so many; with 0 that stands still."""
        self._share_processors(num_for_steps, num_beside)

    def help_beside(self, until_s: float, is_done: ctypes.c_int) -> None:
        """Take a share in what is computed beside the steps until ``until_s`` of `time.monotonic`, or until ``is_done`` is not 0."""
        self._help_beside(int(max(0.0, min(until_s, LATEST_S)) * 1e9), is_done)
