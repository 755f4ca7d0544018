"""How long passes fall into bits: as measured ones of about the same load did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from server.engine.cost_model import Load

NUM_CUTS_KEPT = 40


@dataclass(frozen=True, slots=True)
class Cut:
    """How a pass was cut, for so many bits a layer; ``shares`` are those of its time that each bit took, in order."""

    load: Load
    bits_per_layer: int
    shares: tuple[float, ...]

    @classmethod
    def of(cls, load: Load, bits_s: tuple[float, ...], bits_per_layer: int) -> Cut:
        whole_s = sum(bits_s)
        return cls(load, bits_per_layer, tuple(round(bit_s / whole_s, 5) for bit_s in bits_s))


def some_of_each(cuts: Iterable[Cut]) -> tuple[Cut, ...]:
    """Return the last cut of each kind of load; where there are many kinds, some from all over."""
    last = {(cut.bits_per_layer, cut.load.gen_tokens, cut.load.encoded_pixels, cut.load.decoded_pixels): cut for cut in cuts}
    ordered = sorted(last.values(), key=lambda cut: (cut.bits_per_layer, cut.load.gen_tokens + cut.load.und_tokens))
    num = min(NUM_CUTS_KEPT, len(ordered))
    return tuple(ordered[index * len(ordered) // num] for index in range(num))


def cut_like(cuts: tuple[Cut, ...], load: Load, seconds: Load, bits_per_layer: int) -> tuple[float, ...] | None:
    """Return the shares of the cut whose load is most like ``load``, each term weighing what it costs, of those cut most nearly into so
    many bits; None where none is cut at all, but was to be, or the other way round."""
    alike = [cut for cut in cuts if (cut.bits_per_layer > 1) == (bits_per_layer > 1)]

    def difference(cut: Cut) -> tuple[int, float]:
        load_s = sum(cost * abs(one - other) for cost, one, other in zip(seconds, cut.load, load, strict=True))
        return abs(cut.bits_per_layer - bits_per_layer), load_s

    return min(alike, key=difference).shares if alike else None
