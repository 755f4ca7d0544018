"""What the scheduler asks of a grammar: which tokens may come next in one answer. `llguidance_grammars` has the real ones."""

from __future__ import annotations

from typing import Protocol


class GrammarStopped(RuntimeError):
    """An answer's grammar cannot be followed any further. The message is for its client."""


class Grammar(Protocol):
    """The grammar of one answer. Its state is a function of the tokens accepted, so that an answer can be taken up anywhere."""

    @property
    def is_compiled(self) -> bool:
        """Whether it can be asked what is allowed without a wait for all of it: compiling one may take seconds."""
        ...

    def accept(self, token_id: int) -> None:
        """Take in the next token of the answer; returns at once."""
        ...

    def allowed(self) -> bytes:
        """Return which tokens may follow, one bit per token id, lowest bit first; may wait for what `accept` has begun.

        Raises:
            GrammarStopped: the grammar cannot be compiled or needs more than the bounds, or nothing may follow.
            RuntimeError: there are no grammars here.
        """
        ...

    def close(self) -> None:
        """Let it go, once: nothing more is asked of it, and what is still to be worked out for it, and has not begun, need not be."""
        ...


class Grammars(Protocol):
    """Makes grammars for one tokenizer."""

    def start(self, source: str) -> Grammar:
        """Begin the grammar ``source`` at the start of an answer, to be closed; returns at once."""
        ...


class NoGrammars:
    """Where the grammar library is not installed: a request that needs it fails by itself."""

    def start(self, source: str) -> Grammar:
        """Return a grammar that nothing satisfies."""
        return _Missing()


class _Missing:
    @property
    def is_compiled(self) -> bool:
        return True

    def accept(self, token_id: int) -> None:
        pass

    def allowed(self) -> bytes:
        raise RuntimeError("no grammar library is installed")

    def close(self) -> None:
        pass


NO_GRAMMARS = NoGrammars()
