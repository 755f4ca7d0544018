"""How long passes fall into bits: as measured ones of about the same load did."""

from __future__ import annotations

import math
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


def cut_like(cuts: tuple[Cut, ...], load: Load, seconds: Load, *, bits_per_layer: int) -> tuple[float, ...] | None:
    """Return the shares of the cut that is most like a pass of ``load`` and so many bits a layer.

    It has work of the same kinds: pictures to denoise, to encode, to decode. Among those its layers fall into about as many bits, and its
    load is most like, each term weighing what it costs. None where no pass of these kinds was cut within its layers, but this one is, or
    the other way round.
    """
    alike = [cut for cut in cuts if _kinds(cut.load) == _kinds(load) and (cut.bits_per_layer > 1) == (bits_per_layer > 1)]

    def difference(cut: Cut) -> tuple[float, float]:
        load_s = sum(cost * abs(one - other) for cost, one, other in zip(seconds, cut.load, load, strict=True))
        return abs(math.log(cut.bits_per_layer / bits_per_layer)), load_s

    return min(alike, key=difference).shares if alike else None


def _kinds(load: Load) -> tuple[bool, bool, bool]:
    return load.gen_tokens > 0, load.encoded_pixels > 0, load.decoded_pixels > 0
