"""Decode steps that begin before the one under way has ended, so that the device need not wait for the host between them.

Which rows the next step has, and where they go, can be said before the tokens under way are known: a text that goes on feeds the token it
is just drawing. Where one ends with that token instead, its row ahead is void: what it wrote lies beyond its context's end and whoever
writes there next comes after it on the device. A step is only foreseen where it would have held decode rows alone anyway.
"""

from __future__ import annotations

from server.engine.batch import Batch
from server.engine.roster import Roster
from server.engine.rows import Draft, RowBuilder
from server.engine.sequence import Phase, Sequence
from server.engine.turns import Turns

MOST_PAGES_A_ROW = 2
"""A row may need a page of its own and, before that, a copy of one that it shares."""


class RunAhead:
    """Foresees the step after one of decode rows."""

    def __init__(self, roster: Roster, turns: Turns, rows: RowBuilder) -> None:
        self._roster = roster
        self._turns = turns
        self._rows = rows

    def fill(self, draft: Draft, under_way: Batch) -> None:
        """Fill ``draft`` with the step after ``under_way``; leave it empty if that cannot be foreseen."""
        decoding = sorted(self._roster.running.values(), key=lambda other: other.sequence_id)
        if under_way.denoises or under_way.prefills or not all(self._is_foreseeable(sequence) for sequence in decoding):
            return
        going_on = [sequence for sequence in decoding if not (sequence.is_in_flight and self._turns.must_end(sequence))]
        if MOST_PAGES_A_ROW * len(going_on) > self._roster.pool.num_free:
            return
        for sequence in going_on:
            add = self._rows.add_ahead if sequence.is_in_flight else self._rows.add_decode
            add(sequence, draft)
        self._rows.close_decodes(draft)

    def _is_foreseeable(self, sequence: Sequence) -> bool:
        return sequence.phase is Phase.DECODE and (not sequence.is_in_flight or self._turns.is_foreseeable(sequence))
