"""Grammars by llguidance: a few threads compile them, and a few others work out which tokens may follow while the model runs.

The library lets go of Python's lock meanwhile, so the engine waits only where a mask takes longer than a forward pass; an answer whose
grammar is still being compiled waits by itself (`Grammar.is_compiled`). Each answer's is compiled for it alone: copies of a matcher have
one lexer, so that one answer that is too much for the bounds would end the others, and they would wait for each other's masks. Imports
neither torch nor, outside this file, the library: the engine runs without both this file and the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

import llguidance

from model.tokenizer import Tokenizer
from server.engine.grammar import Grammar, GrammarStopped

NUM_THREADS = 2
"""Of each kind."""

LIMITS = llguidance.LLParserLimits(verbose_errors=False)
"""The library's own bounds on states, items and work per step; its errors must not repeat the client's text."""

TOO_MUCH = "the form of the answer takes more work than the bounds allow; simplify its patterns, counts or alternatives"


class LlguidanceGrammars:
    """Grammars over the tokens of one model. ``vocab_size`` is the width of its logits, which may exceed the tokenizer's."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = llguidance_tokenizer(tokenizer, vocab_size)
        self._compilers = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="grammar-compiler")
        self._masks = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="grammar")

    def start(self, source: str) -> Grammar:
        """Begin compiling ``source``."""
        compile_grammar = partial(llguidance.LLMatcher, self._tokenizer, source, log_level=0, limits=LIMITS)
        return _GuidedAnswer(self._compilers, self._masks, compile_grammar)


class _GuidedAnswer:
    """One answer. Each task waits for the one before it, which a thread has already taken: the pools are first in, first out.

    What it is told before it is compiled (an answer that is taken up) is kept, and worked off by the compilers at once: nobody else's mask
    waits behind it.
    """

    def __init__(self, compilers: ThreadPoolExecutor, masks: ThreadPoolExecutor, compile_grammar: partial[llguidance.LLMatcher]) -> None:
        self._compilers = compilers
        self._masks = masks
        self._step = compilers.submit(_begin, compile_grammar)
        self._written: list[int] = []
        self._is_compiled = False

    @property
    def is_compiled(self) -> bool:
        if not self._is_compiled and self._step.done():
            self._is_compiled = not self._written
            if self._written:
                self._step = self._compilers.submit(_advance, self._step, self._written)
                self._written = []
        return self._is_compiled

    def accept(self, token_id: int) -> None:
        if self._is_compiled:
            self._step = self._masks.submit(_advance, self._step, [token_id])
        else:
            self._written.append(token_id)

    def allowed(self) -> bytes:
        while not self.is_compiled:
            wait([self._step])
        return self._step.result()[1]

    def close(self) -> None:
        self._step.cancel()


_Step = tuple[llguidance.LLMatcher, bytes]


def _begin(compile_grammar: partial[llguidance.LLMatcher]) -> _Step:
    return _masked(compile_grammar())


def _advance(before: Future[_Step], token_ids: list[int]) -> _Step:
    matcher, _ = before.result()
    matcher.consume_tokens(token_ids)
    return _masked(matcher)


def _masked(matcher: llguidance.LLMatcher) -> _Step:
    mask = matcher.compute_bitmask()
    if matcher.is_error():
        raise GrammarStopped(TOO_MUCH)
    return matcher, mask


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
