"""Grammars that show any slip in which tokens they are told of, and when, and that need no library: for checks on a bare machine."""

from __future__ import annotations

import numpy as np

MODULUS = 5


class SumGrammar:
    """Lets those tokens follow whose ids are, modulo `MODULUS`, the sum of all before; after ``most_tokens`` of them none."""

    def __init__(self, vocab: int, most_tokens: int, *, is_compiled: bool) -> None:
        self._vocab = vocab
        self._most_tokens = most_tokens
        self.accepted: list[int] = []
        self.is_compiled = is_compiled
        self.is_closed = False

    def accept(self, token_id: int) -> None:
        """Take in the next token of the answer."""
        assert not self.is_closed
        self.accepted.append(token_id)

    def allowed(self) -> bytes:
        """Return which tokens may follow, one bit per token id.

        Raises:
            RuntimeError: none may.
        """
        assert not self.is_closed
        if len(self.accepted) >= self._most_tokens:
            raise RuntimeError("nothing may follow")
        is_allowed = np.arange(self._vocab) % MODULUS == sum(self.accepted) % MODULUS
        return np.packbits(is_allowed, bitorder="little").tobytes()

    def close(self) -> None:
        """Let it go, once."""
        assert not self.is_closed
        self.is_closed = True


class SumGrammars:
    """Makes them; the source of one is after how many tokens nothing may follow. Compiled at once, or when told to."""

    def __init__(self, vocab: int, *, are_compiled: bool = True) -> None:
        self._vocab = vocab
        self._are_compiled = are_compiled
        self.started: list[SumGrammar] = []

    def start(self, source: str) -> SumGrammar:
        """Begin a grammar at the start of an answer."""
        self.started.append(SumGrammar(self._vocab, int(source), is_compiled=self._are_compiled))
        return self.started[-1]
