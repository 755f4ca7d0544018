"""Compilations under way and done: one serves every answer of an account that waits for the same grammar, and those done are kept a while.

The answers of one request have one grammar, and a conversation asks for the same one in every turn. What is compiled is its account's
alone: how fast an answer begins must tell nobody what others ask for. Everything here belongs to one thread; the work is done in others.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

CompiledT = TypeVar("CompiledT")

MAX_KEPT = 64
"""Grammars kept that no answer needs just now; those left longest ago go first."""
MAX_KEPT_WORK_S = 4.0
"""Processor time that all of those took to compile: what llguidance takes longest for is largest, up to 100 MB for a second's work."""
Clock = Callable[[], float]


class Compilation(Generic[CompiledT]):
    """One grammar on its way. ``key``: whose it is and its source; ``work_s``: the processor time it took, 0 before it is compiled."""

    def __init__(self, key: tuple[str, str], compilers: Executor, compile_grammar: Callable[[str], CompiledT], clock: Clock) -> None:
        self.key = key
        self.num_answers = 0
        self.work_s = 0.0
        self._clock = clock
        self.compiled: Future[CompiledT] = compilers.submit(self._make, compile_grammar)

    def _make(self, compile_grammar: Callable[[str], CompiledT]) -> CompiledT:
        began_s = self._clock()
        try:
            return compile_grammar(self.key[1])
        finally:
            self.work_s = self._clock() - began_s

    @property
    def has_failed(self) -> bool:
        return self.compiled.done() and self.compiled.exception() is not None


class Compilations(Generic[CompiledT]):
    """Has ``compilers`` call ``compile_grammar`` with the sources of grammars; ``clock`` counts the calling thread's processor time."""

    def __init__(self, compilers: Executor, compile_grammar: Callable[[str], CompiledT], clock: Clock = time.thread_time) -> None:
        self._compilers = compilers
        self._compile = compile_grammar
        self._clock = clock
        self._in_use: dict[tuple[str, str], Compilation[CompiledT]] = {}
        self._kept: OrderedDict[tuple[str, str], Compilation[CompiledT]] = OrderedDict()

    def join(self, source: str, scope: str) -> Compilation[CompiledT]:
        """Return the compilation of ``source`` for an answer of the account ``scope``, begun if there is none; it is to be left."""
        key = (scope, source)
        compilation = self._in_use.get(key) or self._kept.pop(key, None)
        if compilation is None:
            compilation = Compilation(key, self._compilers, self._compile, self._clock)
        self._in_use[key] = compilation
        compilation.num_answers += 1
        return compilation

    def leave(self, compilation: Compilation[CompiledT]) -> None:
        """Let one answer go. What no answer waits for any more is not begun; what has begun goes to its end: nothing can stop it."""
        compilation.num_answers -= 1
        if compilation.num_answers:
            return
        del self._in_use[compilation.key]
        if not compilation.compiled.cancel() and not compilation.has_failed:
            self._kept[compilation.key] = compilation
        while len(self._kept) > MAX_KEPT or sum(kept.work_s for kept in self._kept.values()) > MAX_KEPT_WORK_S:
            self._kept.popitem(last=False)
