"""How often a text has each of its tokens, which is what penalties count. Grows with the text, so that no draw counts it anew.

Plain numbers: who plans a batch has no use for tensors.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """The tokens of a text up to some point, each once, in the order in which they first came, and how often each is there.

    ``places`` says where each of them stands; it may know others, of the same text as it goes on.
    """

    token_ids: array[int] = field(default_factory=lambda: array("i"))
    counts: array[int] = field(default_factory=lambda: array("i"))
    places: Mapping[int, int] = field(default_factory=dict)

    def place_of(self, token_id: int) -> int | None:
        """Return where a token stands; None where the text does not have it."""
        place = self.places.get(token_id)
        is_here = place is not None and place < len(self.token_ids) and self.token_ids[place] == token_id
        return place if is_here else None

    def with_another(self, token_id: int) -> TokenCounts:
        """Return the counts of the text with one token more."""
        token_ids, counts, place = self.token_ids[:], self.counts[:], self.place_of(token_id)
        if place is not None:
            counts[place] += 1
            return TokenCounts(token_ids, counts, self.places)
        token_ids.append(token_id)
        counts.append(1)
        return TokenCounts(token_ids, counts, {**self.places, token_id: len(counts) - 1})


NO_TOKENS = TokenCounts()


class CountedText:
    """A text that grows."""

    def __init__(self) -> None:
        self._token_ids = array("i")
        self._counts = array("i")
        self._places: dict[int, int] = {}

    def add(self, token_id: int) -> None:
        """Count the next token."""
        place = self._places.setdefault(token_id, len(self._token_ids))
        if place == len(self._token_ids):
            self._token_ids.append(token_id)
            self._counts.append(0)
        self._counts[place] += 1

    def so_far(self) -> TokenCounts:
        """Return the counts as they are now; they stay so when the text goes on."""
        return TokenCounts(self._token_ids[:], self._counts[:], self._places)


def counts_of(token_ids: Iterable[int]) -> TokenCounts:
    """Count the tokens of a whole text."""
    text = CountedText()
    for token_id in token_ids:
        text.add(token_id)
    return text.so_far()
