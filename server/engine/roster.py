"""The roster: every sequence the engine has, waiting or running, and the one way out for all of them.

A sequence that ends while a pass still holds rows of it (an abort, a deadline) is answered at once, but keeps its pages until the last
such pass lands: nobody else may be given pages that are being written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from server.engine.drain_rate import DrainRate
from server.engine.fairness import Shares
from server.engine.outputs import Outputs
from server.engine.pages import PagePool
from server.engine.prefix_cache import Held, PrefixCache
from server.engine.sequence import Lane, Phase, Sequence
from server.engine.waiting import Waiting
from server.messages import FinishedOutput, FinishReason


class Roster:
    """Sequences by where they are, their pages and what became of them."""

    def __init__(self, pool: PagePool, cache: PrefixCache, shares: Shares, drain_rate: DrainRate, clock: Callable[[], float]) -> None:
        self.pool = pool
        self._cache = cache
        self.shares = shares
        self.drain_rate = drain_rate
        self.clock = clock
        self.waiting = Waiting()
        self.running: dict[int, Sequence] = {}
        self.outputs = Outputs()
        self._leaving: dict[int, Sequence] = {}
        self._dropped: list[int] = []

    @property
    def is_empty(self) -> bool:
        return not (self.waiting or self.running or self._leaving)

    def sequences(self) -> list[Sequence]:
        """List everyone who has not been answered in full, those waiting first."""
        return [*self.waiting, *self.running.values()]

    def pictures(self) -> list[Sequence]:
        """List those that take a picture's time, or will; one that only its decoder is still busy with takes none."""
        return [other for other in self.running.values() if other.lane is Lane.PICTURE and other.phase is not Phase.VAE]

    def end(self, request_id: str, reason: FinishReason) -> None:
        """End a request, if it is still here."""
        for sequence in self.sequences():
            if sequence.request.request_id == request_id:
                self.finish(sequence, reason)
                return

    def forget(self, sequence_ids: Iterable[int]) -> None:
        """Have the prefix cache forget the pages of sequences: whoever found what is in them would fare no better."""
        for sequence_id in sequence_ids:
            sequence = self.running.get(sequence_id) or self._leaving.get(sequence_id)
            for page in sequence.pages if sequence is not None else ():
                self.pool.evict(page)

    def finish(self, sequence: Sequence, reason: FinishReason, code: str | None = None, message: str | None = None) -> None:
        """End a sequence: make its terminal output and give back its place, its latents, its grammar and its pages."""
        if sequence.phase is Phase.FINISHED:
            return
        sequence.phase = Phase.FINISHED
        self.running.pop(sequence.sequence_id, None)
        self.waiting.remove(sequence)
        self.shares.leave(sequence)
        if reason is not FinishReason.ERROR:
            self.drain_rate.count(sequence.asked_for, self.clock())
        usage = replace(sequence.usage, completion_text_tokens=len(sequence.text_ids))
        self.outputs.finished.append(FinishedOutput(sequence.request.request_id, reason, usage, code, message))
        if reason in (FinishReason.STOP, FinishReason.LENGTH) and sequence.open_ids:
            self._cache.keep_tail(sequence.full, Held(sequence.request.cache_scope, sequence.history, tuple(sequence.open_ids)))
        if sequence.is_in_flight:
            self._leaving[sequence.sequence_id] = sequence
        else:
            self._let_go(sequence)

    def is_leaving(self, sequence_id: int) -> bool:
        """Tell whether a sequence has ended and a pass still holds rows of it."""
        return sequence_id in self._leaving

    def land(self, sequence_ids: Iterable[int]) -> None:
        """Note that a pass with rows of these sequences has ended."""
        for sequence_id in sequence_ids:
            sequence = self.running.get(sequence_id) or self._leaving.get(sequence_id)
            if sequence is None:
                continue
            sequence.num_in_flight -= 1
            if sequence_id in self._leaving and not sequence.is_in_flight:
                self._let_go(self._leaving.pop(sequence_id))

    def charge(self, tokens: Mapping[int, int], seconds: float) -> None:
        """Put a step's time on the accounts of those who had rows in it, by their tokens."""
        token_s = seconds / max(1, sum(tokens.values()))
        for sequence_id, num_tokens in tokens.items():
            if sequence_id in self.running:
                self.running[sequence_id].unpaid_s += num_tokens * token_s

    def _let_go(self, sequence: Sequence) -> None:
        sequence.release(self.pool)
        if sequence.grammar is not None:
            sequence.grammar.close()
        self._dropped.append(sequence.sequence_id)

    def take_outputs(self) -> Outputs:
        """Return what has happened since the last call."""
        outputs, self.outputs = self.outputs, Outputs()
        return outputs

    def take_dropped(self) -> list[int]:
        """Return the sequences whose latents the runner may forget."""
        dropped, self._dropped = self._dropped, []
        return dropped
