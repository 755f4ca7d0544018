"""Grammars by llguidance: a few threads compile them, and a few others work out which tokens may follow while the model runs.

The library lets go of Python's lock meanwhile, so the engine waits only where a mask takes longer than a forward pass; an answer whose
grammar is still being compiled waits by itself (`Grammar.is_compiled`). Answers of the same grammar share what is compiled
(`compilations`). Imports neither torch nor, outside this file, the library: the engine runs without both this file and the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import llguidance

from model.tokenizer import Tokenizer
from server.engine.compilations import Compilations
from server.engine.grammar import Grammar, GrammarStopped

NUM_THREADS = 2
"""Of each kind."""

LIMITS = llguidance.LLParserLimits(verbose_errors=False)
"""The library's own bounds on states, items and work per step; its errors must not repeat the client's text."""

TOO_MUCH = "the form of the answer takes more work than the bounds allow; simplify its patterns, counts or alternatives"


@dataclass(frozen=True, slots=True)
class _State:
    """Where an answer is, and which tokens may follow there. At the beginning it ``is_shared``, and goes on as a copy."""

    matcher: llguidance.LLMatcher
    mask: bytes
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class _Pools:
    """Who works for the answers."""

    compilers: ThreadPoolExecutor
    masks: ThreadPoolExecutor
    compilations: Compilations[_State]


class LlguidanceGrammars:
    """Grammars over the tokens of one model. ``vocab_size`` is the width of its logits, which may exceed the tokenizer's."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = llguidance_tokenizer(tokenizer, vocab_size)
        compilers = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="grammar-compiler")
        masks = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="grammar")
        self._pools = _Pools(compilers, masks, Compilations(compilers, self._begin))

    def start(self, source: str, scope: str) -> Grammar:
        """Begin compiling ``source``, unless that is under way or done for ``scope``."""
        return _GuidedAnswer(self._pools, source, scope)

    def _begin(self, source: str) -> _State:
        matcher = llguidance.LLMatcher(self._tokenizer, source, log_level=0, limits=LIMITS)
        return _State(matcher, _mask(matcher), is_shared=True)


class _GuidedAnswer:
    """One answer. Each task waits for the one before it, which a thread has already taken: the pools are first in, first out.

    What it is told before it is compiled (an answer that is taken up) is kept, and worked off by the compilers at once: nobody else's mask
    waits behind it.
    """

    def __init__(self, pools: _Pools, source: str, scope: str) -> None:
        self._pools = pools
        self._compilation = pools.compilations.join(source, scope)
        self._state = self._compilation.compiled
        self._written: list[int] = []
        self._is_compiled = False

    @property
    def is_compiled(self) -> bool:
        if not self._is_compiled and self._state.done():
            self._is_compiled = not self._written
            if self._written:
                self._state = self._pools.compilers.submit(_advance, self._state, self._written)
                self._written = []
        return self._is_compiled

    def accept(self, token_id: int) -> None:
        if self._is_compiled:
            self._state = self._pools.masks.submit(_advance, self._state, [token_id])
        else:
            self._written.append(token_id)

    def allowed(self) -> bytes:
        while not self.is_compiled:
            wait([self._state])
        return self._state.result().mask

    def close(self) -> None:
        if self._state is not self._compilation.compiled:
            self._state.cancel()
        self._pools.compilations.leave(self._compilation)


def _advance(before: Future[_State], token_ids: list[int]) -> _State:
    state = before.result()
    matcher = state.matcher.deep_copy() if state.is_shared else state.matcher
    matcher.consume_tokens(token_ids)
    return _State(matcher, _mask(matcher))


def _mask(matcher: llguidance.LLMatcher) -> bytes:
    mask = matcher.compute_bitmask()
    if matcher.is_error():
        raise GrammarStopped(TOO_MUCH)
    return mask


class _ByteTokens:
    """A tokenizer as llguidance asks for it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.eos_token_id = tokenizer.eos_id
        self.bos_token_id = None
        self.tokens: Sequence[bytes] = [tokenizer.token_bytes(token_id) for token_id in range(vocab_size)]
        self.special_token_ids = [token_id for token_id, utf8 in enumerate(self.tokens) if not utf8]
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def llguidance_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> llguidance.LLTokenizer:
    """Return the library's view of a tokenizer: the bytes of each token, and the one that ends a text."""
    wrapped = llguidance.TokenizerWrapper(_ByteTokens(tokenizer, vocab_size))
    return llguidance.LLTokenizer(wrapped, n_vocab=vocab_size, eos_token=tokenizer.eos_id)
