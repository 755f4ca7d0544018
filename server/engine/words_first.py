"""When pictures stand aside for words.

Words are short and somebody reads them as they come; a picture is long and of use when it is done. So words go first, at their full
pace, as long as that costs pictures no more than an even share of the machine would: a picture stands aside for at most as long as it
still has work of its own to do, which at the worst makes it take twice as long. Where pictures queue the machine is short of time, and
they stand aside for less: two for half as long, three or more not at all. Then words come as seldom as the inter-token target allows.
"""

from __future__ import annotations

from server.engine.cost_model import CostModel
from server.engine.fairness import is_overdue, remaining_tokens
from server.engine.sequence import Sequence

SHARE_OF_REST = {1: 1.0, 2: 0.5}
"""How much of its remaining work a picture may stand aside for, by the number of pictures there are."""


class WordsFirst:
    """Decides it from the pictures under way and the time each has stood aside so far."""

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost

    def holds(self, pictures: list[Sequence], num_waiting: int, step: int) -> bool:
        """Tell whether all of ``pictures`` stand aside in step ``step``, while ``num_waiting`` others have not even begun."""
        share = SHARE_OF_REST.get(len(pictures) + num_waiting, 0.0)
        return all(not is_overdue(one, step) and one.stood_aside_s < share * self._rest_s(one) for one in pictures)

    def note(self, pictures: list[Sequence], seconds: float) -> None:
        """Take in that ``pictures`` have stood aside for a step."""
        for one in pictures:
            one.stood_aside_s += seconds

    def _rest_s(self, picture: Sequence) -> float:
        """Estimate the seconds of work that a picture still needs, with a machine to itself."""
        rates = self._cost.coefficients
        return remaining_tokens(picture) * (rates.gen_tokens or rates.und_tokens)
