"""Steps that begin before the one under way has ended, so that the device need not wait for the host between them.

Which rows the next step has, and where they go, can often be said before what is under way is known. A text that goes on feeds the token
it is just drawing; where it ends with that token instead, its row ahead is void: what it wrote lies beyond its context's end, and whoever
writes there next comes after it on the device. A picture that is not done goes on from the latents that are just being made, and a prompt
from where the chunk under way will end.

What a draw depends on besides is no hindrance. Penalties count the token under way where it is, on the device. A grammar must see it on the
host before it can say what may follow, so only the draw waits for that, not the row: the device is given the forward pass at once, and
the draw of that step once the one before has been committed, which is while the pass runs. Leaving such rows out of every second step
instead would halve their pace, and not running ahead would slow everybody by what the host does between two steps. This costs nobody
anything while grammars answer within a forward pass; one that takes longer is waited for by all, as it is where nothing runs ahead.
"""

from __future__ import annotations

from server.engine.batch import Batch
from server.engine.roster import Roster
from server.engine.sequence import Phase, Sequence
from server.engine.turns import Turns

MOST_PAGES_A_ROW = 2
"""A row may need a page of its own and, before that, a copy of one that it shares."""


class Foresight:
    """Says who could have rows in the step after the one under way."""

    def __init__(self, roster: Roster, turns: Turns) -> None:
        self._roster = roster
        self._turns = turns

    def covers(self, under_way: Batch) -> bool:
        """Tell whether what follows ``under_way`` can be said for all who have rows in it, and without anybody's giving up pages."""
        if under_way.is_divisible:
            return False
        running, num_free = self._roster.running.values(), self._roster.pool.num_free
        # Where there are pages for all, nobody need be asked whether they write.
        return MOST_PAGES_A_ROW * len(running) <= num_free or MOST_PAGES_A_ROW * sum(map(self._will_decode, running)) <= num_free

    def decoding(self) -> list[Sequence]:
        """List the sequences whose next row is a decode row, the oldest first."""
        return sorted(filter(self._will_decode, self._roster.running.values()), key=lambda other: other.sequence_id)

    def candidates(self) -> list[Sequence]:
        """List those who could be served a denoise step or a prompt chunk."""
        return [other for other in self._roster.running.values() if other.has_steps_left or other.has_prompt_left]

    def _will_decode(self, sequence: Sequence) -> bool:
        return sequence.phase is Phase.DECODE and sequence.can_draw_token and not (sequence.awaits_token and self._turns.must_end(sequence))
