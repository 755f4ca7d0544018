"""How long passes fall into bits: as measured ones of about the same load did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from server.engine.cost_model import Load

NUM_CUTS_KEPT = 40


@dataclass(frozen=True, slots=True)
class Cut:
    """How a pass was cut; ``shares`` are those of its time that each bit took, in order; ``is_fine``: they are parts of layers."""

    load: Load
    is_fine: bool
    shares: tuple[float, ...]

    @classmethod
    def of(cls, load: Load, bits_s: tuple[float, ...], *, is_fine: bool) -> Cut:
        whole_s = sum(bits_s)
        return cls(load, is_fine, tuple(round(bit_s / whole_s, 5) for bit_s in bits_s))


def some_of_each(cuts: Iterable[Cut]) -> tuple[Cut, ...]:
    """Return the last cut of each kind of load; where there are many kinds, some from all over."""
    last = {(cut.is_fine, cut.load.gen_tokens, cut.load.encoded_pixels, cut.load.decoded_pixels): cut for cut in cuts}
    ordered = sorted(last.values(), key=lambda cut: (cut.is_fine, cut.load.gen_tokens + cut.load.und_tokens))
    num = min(NUM_CUTS_KEPT, len(ordered))
    return tuple(ordered[index * len(ordered) // num] for index in range(num))


def cut_like(cuts: tuple[Cut, ...], load: Load, seconds: Load, *, is_fine: bool) -> tuple[float, ...] | None:
    """Return the shares of the cut whose load is most like ``load``, each term weighing what it costs; None where none is as fine."""

    def difference_s(cut: Cut) -> float:
        return sum(cost * abs(one - other) for cost, one, other in zip(seconds, cut.load, load, strict=True))

    as_fine = [cut for cut in cuts if cut.is_fine == is_fine]
    return min(as_fine, key=difference_s).shares if as_fine else None
