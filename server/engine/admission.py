"""Admission: what is refused at once, who waits, who is let in next, and whose deadline has passed.

The waiting are let in by the order of `fairness`, those that were preempted first. The bound: whoever has been overtaken by
``MAX_OVERTAKEN`` later ones is next, and nobody is let in before him (`waiting`).
"""

from __future__ import annotations

import math
from itertools import takewhile

from server.engine.options import ModelFacts, SchedulerLimits
from server.engine.pages import PagePool
from server.engine.roster import Roster
from server.engine.segments import ContextSegment, total_rows
from server.engine.sequence import Lane, Sequence
from server.messages import FinishReason


class Admission:
    """The door of the engine."""

    def __init__(self, roster: Roster, facts: ModelFacts, limits: SchedulerLimits) -> None:
        self._roster = roster
        self._facts = facts
        self._limits = limits
        self._next_expiry_s = math.inf
        self._was_blocked_at = (0, 0, 0)
        self.num_expired = 0
        self.num_refused = 0

    def turn_away(self, sequence: Sequence, code: str, message: str) -> None:
        """Answer a new sequence that nothing can be done for."""
        self._roster.shares.arrive(sequence)
        self._roster.finish(sequence, FinishReason.ERROR, code, message)

    def take_in(self, sequence: Sequence, contexts: list[list[ContextSegment]], now_s: float) -> None:
        """Queue a new sequence, or refuse it: for good when it can never fit, for now when too many wait.

        ``contexts`` are what it must have whole, all at once, before it has anything to show.
        """
        self._roster.shares.arrive(sequence)
        refusal = self._never_fits(sequence, contexts)
        if refusal is not None:
            self._roster.finish(sequence, FinishReason.ERROR, "context_length_exceeded", refusal)
        elif len(self._roster.waiting) >= self._limits.max_waiting:
            self.num_refused += 1
            message = f"{self._limits.max_waiting} requests are waiting already, as many as the server lets wait"
            self._roster.finish(sequence, FinishReason.ERROR, "overloaded", message)
        else:
            self._watch_deadline(sequence, now_s)
            self._roster.waiting.add(sequence)

    def _never_fits(self, sequence: Sequence, contexts: list[list[ContextSegment]]) -> str | None:
        pool = self._roster.pool
        num_rows = total_rows(sequence.history) + 1
        capacity = pool.num_pages * pool.page_size
        if num_rows > capacity:
            return f"the prompt needs {num_rows} cache rows, the server has {capacity}"
        num_pages = sum(_own_pages(pool, contexts[:index], held) for index, held in enumerate(contexts))
        if num_pages > pool.num_pages:
            return f"the prompt and its guidance need {num_pages * pool.page_size} cache rows, the server has {capacity}"
        num_positions = sum(segment.num_positions for segment in sequence.history)
        if num_positions >= self._facts.max_positions:
            return f"the prompt takes {num_positions} positions, the model has {self._facts.max_positions}"
        return None

    def _watch_deadline(self, sequence: Sequence, now_s: float) -> None:
        if sequence.request.deadline_s is not None:
            sequence.expires_s = now_s + sequence.request.deadline_s
            self._next_expiry_s = min(self._next_expiry_s, sequence.expires_s)

    def expire(self, now_s: float) -> None:
        """End every sequence whose deadline has passed, whatever it is doing."""
        if now_s < self._next_expiry_s:
            return
        for sequence in self._roster.sequences():
            if sequence.expires_s <= now_s:
                self.num_expired += 1
                message = f"the request was not done by its deadline, {sequence.request.deadline_s:.1f} s after the engine had it"
                self._roster.finish(sequence, FinishReason.ERROR, "deadline_exceeded", message)
        self._next_expiry_s = min((sequence.expires_s for sequence in self._roster.sequences()), default=math.inf)

    def admit(self, step: int) -> list[Sequence]:
        """Let waiting sequences in, one after the other, while their canon fits into the free pages; return them."""
        roster = self._roster
        admitted: list[Sequence] = []
        while roster.waiting and len(roster.running) < self._limits.max_running:
            place = (roster.pool.num_free, len(roster.running), roster.waiting.num_changes)
            if place == self._was_blocked_at:
                break
            sequence = roster.waiting.next(roster.shares, step)
            num_rows = total_rows(sequence.history) + len(sequence.open_ids) + 1
            if roster.running and roster.pool.pages_for(num_rows) + len(roster.running) > roster.pool.num_free:
                self._was_blocked_at = place
                break
            roster.waiting.let_in(sequence)
            roster.running[sequence.sequence_id] = sequence
            sequence.last_served_step = step
            sequence.fill_canon()
            admitted.append(sequence)
        return admitted

    def num_waiting(self, lane: Lane) -> int:
        """Count those who wait and whose client waits for what that lane makes."""
        return self._roster.waiting.num_asking(lane)


def _own_pages(pool: PagePool, others: list[list[ContextSegment]], held: list[ContextSegment]) -> int:
    """Count the pages of a context that holds ``held`` beside those that it shares, as far as they agree, with one of ``others``."""
    num_rows, num_shared = total_rows(held), max((total_rows(_common(other, held)) for other in others), default=0)
    return pool.pages_for(num_rows) - num_shared // pool.page_size if num_shared < num_rows else 0


def _common(one: list[ContextSegment], other: list[ContextSegment]) -> list[ContextSegment]:
    pairs = takewhile(lambda pair: pair[0].uid == pair[1].uid, zip(one, other, strict=False))
    return [segment for segment, _ in pairs]
