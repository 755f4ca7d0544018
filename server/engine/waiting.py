"""Those who wait for a place, kept so that a step need not look at them all: how many there are, and who is let in next.

By `fairness` alone, who differ in nothing but how much they need are ordered once and for all: of each such kind only the first can be
next. Before all of those come the preempted, and whoever has been overtaken by ``MAX_OVERTAKEN`` later ones.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from server.engine.fairness import Shares, remaining_tokens
from server.engine.sequence import Lane, Sequence

MAX_OVERTAKEN = 32

Kind = tuple[str, Lane, int, int]
"""Tenant, lane, priority and the step that last served it: with the accounts, all that its place depends on beside what it needs."""
Need = tuple[int, int]
"""Remaining tokens and number of a sequence."""


class Waiting:
    """The queue, in the order in which they came. What a sequence needs must not change while it is here."""

    def __init__(self) -> None:
        self._sequences: dict[int, Sequence] = {}
        self._urgent: dict[int, Sequence] = {}
        self._by_need: dict[Kind, list[Need]] = {}
        self._places: dict[int, tuple[Kind, Need]] = {}
        self._num_asking = dict.fromkeys(Lane, 0)
        self.num_changes = 0
        """Of who is here; while it stands, all of them are the same."""

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences.values())

    def num_asking(self, lane: Lane) -> int:
        """Count those whose client waits for what that lane makes."""
        return self._num_asking[lane]

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait, behind all others that came before."""
        kind = (sequence.request.tenant, sequence.lane, sequence.request.priority, sequence.last_served_step)
        need = (remaining_tokens(sequence), sequence.sequence_id)
        self._sequences[sequence.sequence_id] = sequence
        self._places[sequence.sequence_id] = (kind, need)
        insort(self._by_need.setdefault(kind, []), need)
        self._num_asking[sequence.asked_for] += 1
        self.num_changes += 1
        self._note_urgency(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Let a sequence go, if it waits."""
        if self._sequences.pop(sequence.sequence_id, None) is None:
            return
        self._urgent.pop(sequence.sequence_id, None)
        kind, need = self._places.pop(sequence.sequence_id)
        needs = self._by_need[kind]
        del needs[bisect_left(needs, need)]
        if not needs:
            del self._by_need[kind]
        self._num_asking[sequence.asked_for] -= 1
        self.num_changes += 1

    def let_in(self, sequence: Sequence) -> None:
        """Let a sequence go in before those that came earlier."""
        self.remove(sequence)
        for other in self:
            if other.sequence_id < sequence.sequence_id:
                other.times_overtaken += 1
                self._note_urgency(other)

    def _note_urgency(self, sequence: Sequence) -> None:
        if sequence.num_preemptions or sequence.times_overtaken >= MAX_OVERTAKEN:
            self._urgent[sequence.sequence_id] = sequence

    def next(self, shares: Shares, step: int) -> Sequence:
        """Return who is let in next in step ``step``; somebody must wait."""
        if self._urgent:
            return min(
                self._urgent.values(),
                key=lambda other: (not other.num_preemptions, other.times_overtaken < MAX_OVERTAKEN, other.sequence_id),
            )
        firsts = [self._sequences[needs[0][1]] for needs in self._by_need.values()]
        return shares.order(firsts, step)[0]
