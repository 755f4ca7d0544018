"""Pages for rows, and what happens when they run out: the youngest sequence gives up its pages and keeps its canon.

Sequence numbers are in order of arrival, and only a younger one is ever preempted, so the oldest always goes on and every sequence
becomes the oldest in time. Whoever has rows in the batch already keeps its pages, which for one that writes are all batches: from younger
ones that write, a sequence takes pages once it has been short of them too often (`starving`).
"""

from __future__ import annotations

from server.engine.batch import Batch
from server.engine.context import Context
from server.engine.fairness import PATIENCE_STEPS
from server.engine.pages import OutOfPages
from server.engine.roster import Roster
from server.engine.sequence import Phase, Sequence
from server.messages import FinishReason

NEED_PAGES = (Phase.PREFILL, Phase.DECODE)


class Reservations:
    """Reserves pages for the rows of one batch after the other."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._pool = roster.pool
        self.num_preemptions = 0

    def reserve(self, sequence: Sequence, context: Context, num_rows: int, batch: Batch, served: set[int]) -> bool:
        """Make room for ``num_rows`` rows of ``context``, preempting younger sequences if need be.

        ``served`` are the sequences with rows in ``batch`` already. Returns whether the rows may be scheduled now; a sequence that has
        the whole pool to itself and still does not fit is ended.
        """
        while True:
            try:
                batch.copies.extend(context.reserve(self._pool, num_rows))
                sequence.times_short = 0
                return True
            except OutOfPages as error:
                sequence.pages_wanted = error.num_wanted
                if not self._preempt_one(sequence, served):
                    break
        sequence.times_short += 1
        has_pool_to_itself = self._pool.num_used <= len(sequence.pages)
        if has_pool_to_itself and not served:
            self._give_up(sequence)
        return False

    def starving(self) -> Sequence | None:
        """Return the oldest sequence that has been short of pages too often, if it would have enough with those of all younger ones.

        These are to give way to it, whatever they are at, and nobody is to be let in before it has them.
        """
        running = self._roster.running.values()
        short = [other for other in running if other.times_short > PATIENCE_STEPS and other.phase in NEED_PAGES]
        if not short:
            return None
        oldest = min(short, key=lambda other: other.sequence_id)
        older = set[int]().union(*(other.pages for other in running if other.sequence_id <= oldest.sequence_id))
        younger = set[int]().union(*(other.pages for other in running if other.sequence_id > oldest.sequence_id))
        return oldest if len(younger - older) + self._pool.num_free >= oldest.pages_wanted else None

    def _preempt_one(self, sequence: Sequence, served: set[int]) -> bool:
        """Take the pages of the youngest sequence that is younger than this one and has no row in this batch or in flight."""
        younger = [
            other
            for other in self._roster.running.values()
            if other.sequence_id > sequence.sequence_id and other.sequence_id not in served and not other.is_in_flight and other.holds_pages
        ]
        if not younger:
            return False
        victim = max(younger, key=lambda other: other.sequence_id)
        del self._roster.running[victim.sequence_id]
        victim.preempt(self._pool)
        self._roster.waiting.add(victim)
        self.num_preemptions += 1
        return True

    def _give_up(self, sequence: Sequence) -> None:
        capacity = self._pool.num_pages * self._pool.page_size
        if sequence.phase is Phase.DECODE:
            self._roster.finish(sequence, FinishReason.LENGTH)
        else:
            message = f"the answer outgrew the server's {capacity} cache rows"
            self._roster.finish(sequence, FinishReason.ERROR, "context_length_exceeded", message)
