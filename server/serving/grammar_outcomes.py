"""What becomes of grammars that are made: for all who wait for the same one now, and for who asks for it again."""

from __future__ import annotations

import threading
from collections import OrderedDict

from server.errors import Overloaded
from server.serving.grammar_jobs import GrammarResult
from server.serving.interest import Interest, NobodyWaits
from server.serving.workers import LOOK_S

MAX_OUTCOMES = 256
MAX_OUTCOME_CHARS = 1 << 24
"""Of all grammars that are kept together."""


class Outcomes:
    """What became of the latest jobs: a conversation asks for the same grammar in every turn.

    Each is its user's alone: how fast an answer begins must tell nobody what others ask for.
    """

    def __init__(self) -> None:
        self._by_key: OrderedDict[bytes, GrammarResult] = OrderedDict()
        self._num_chars = 0
        self._lock = threading.Lock()

    def find(self, key: bytes) -> GrammarResult | None:
        """Return what became of a job; None if that is not known, or no longer."""
        with self._lock:
            if key in self._by_key:
                self._by_key.move_to_end(key)
            return self._by_key.get(key)

    def keep(self, key: bytes, result: GrammarResult) -> None:
        """Keep what became of a job, and forget those asked for longest ago beyond the bounds."""
        with self._lock:
            if key in self._by_key:
                return
            self._by_key[key] = result
            self._num_chars += _num_chars(result)
            while len(self._by_key) > MAX_OUTCOMES or self._num_chars > MAX_OUTCOME_CHARS:
                self._num_chars -= _num_chars(self._by_key.popitem(last=False)[1])


class Writing:
    """One grammar that is being made, for all who asked for the same meanwhile. ``outcome``: None where it was given up."""

    def __init__(self) -> None:
        self.outcome: GrammarResult | Overloaded | None = None
        self._has_ended = threading.Event()
        self._interests: list[Interest] = []

    def join(self, interest: Interest) -> None:
        """Have it made for one more."""
        self._interests.append(interest)

    def is_wanted(self) -> bool:
        """Whether anybody waits for it."""
        return any(not interest.is_over for interest in self._interests)

    def end(self) -> None:
        """Let the others see the outcome."""
        self._has_ended.set()

    def awaited(self, interest: Interest) -> GrammarResult | None:
        """Wait for what another makes; None where it was given up.

        Raises:
            Overloaded: it could not be made now.
            NobodyWaits: the ``interest`` is over.
        """
        while not self._has_ended.wait(LOOK_S):
            if interest.is_over:
                raise NobodyWaits
        if isinstance(self.outcome, Overloaded):
            raise self.outcome
        return self.outcome


def _num_chars(result: GrammarResult) -> int:
    return len(result.grammar or "")
