"""Sequences whose picture is decoded beside the steps: they have no rows in any pass, keep their pages, and go on when it comes.

One that ends meanwhile (an abort, a deadline) is answered at once; its pages come back when the decoder is done with its picture.
"""

from __future__ import annotations

from server.engine.commit import Commit
from server.engine.roster import Roster
from server.engine.sequence import Phase
from server.messages import Picture


class InDecoder:
    """The way back from the decoder. `Commit` leads there."""

    def __init__(self, roster: Roster, commit: Commit) -> None:
        self._roster = roster
        self._commit = commit

    def is_awaited(self, sequence_id: int) -> bool:
        """Tell whether a picture of this sequence is to be decoded and still wanted."""
        sequence = self._roster.running.get(sequence_id)
        return sequence is not None and sequence.phase is Phase.VAE

    def take_in(self, sequence_id: int, picture: Picture | None) -> None:
        """Take in what the decoder has made for a sequence, None where it could not and the sequence has been ended."""
        self._roster.land([sequence_id])
        sequence = self._roster.running.get(sequence_id)
        if sequence is None or picture is None:
            return
        self._commit.take_picture(sequence, picture)
        sequence.last_result_s = self._roster.clock()
        self._commit.move_on(sequence)
