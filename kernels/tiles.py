"""The shipped configurations of the attention kernel: how a program is cut on each generation of GPUs, for each width of head.

One table, read by the kernel's launcher, by the check that compiles every line of it ahead of time (tests/kernels) and by the static
report (`python -m loadtests.kernels --static`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


class Generation(Enum):
    """A generation of GPUs by the compute capability its kernels are compiled for; unknown newer ones take the newest."""

    AMPERE = 80
    HOPPER = 90
    BLACKWELL = 100


class Kind(Enum):
    """What a tile is for: rows of one query, or everything else."""

    DECODE = "decode"
    LONG = "long"


@dataclass(frozen=True, slots=True)
class TileShape:
    """How one program is cut and what the compiler is given for it.

    Attributes:
        rows: query rows, ``queries x heads that share a key head``.
        keys: keys of a tile.
        split_tiles: key tiles of a split, where a row is split.
        programs: how many programs fit a multiprocessor at once, by registers and shared memory; sizes the persistent grid.
        own_in_bulk: own tokens that stand together are loaded by bulk copies, which Ampere has none of (`kernels.key_tiles`).
        pages_in_bulk: so are pages that hold whole parts of a tile.
    """

    rows: int
    keys: int
    num_warps: int
    num_stages: int
    split_tiles: int
    programs: int
    own_in_bulk: bool = False
    pages_in_bulk: bool = False

    @property
    def part_keys(self) -> int:
        """Keys that are computed at once where they are not own tokens loaded in bulk."""
        return min(self.keys, PART)


def generation_of(capability: tuple[int, int]) -> Generation:
    """Return the newest generation that is not newer than a device's compute capability."""
    number = capability[0] * 10 + capability[1]
    return max((known for known in Generation if known.value <= number), key=lambda known: known.value, default=Generation.AMPERE)


def tile_shape(generation: Generation, kind: Kind, head_dim: int, *, has_fp8_pages: bool = False) -> TileShape:
    """Look the shipped configuration up; a head is as wide as the next power of two."""
    shape = SHIPPED[generation, kind, NARROW_HEAD if head_dim <= NARROW_HEAD else WIDE_HEAD]
    return FP8_DECODE if has_fp8_pages and shape is DECODE and head_dim > NARROW_HEAD else shape


NARROW_HEAD = 64
WIDE_HEAD = 128

PIECE = 32
"""Partial key tiles are cut into pieces of so many keys."""

PART = 64
"""Tiles of more keys are cut into parts of so many, but for own tokens loaded in bulk: of 128 keys, pointers to each spill."""

DECODE = TileShape(rows=16, keys=32, num_warps=4, num_stages=3, split_tiles=8, programs=4)
"""For every generation and width. Tiles of 64 keys spill on Hopper under Triton 3.9 (10 and 28 times at heads of 128 and 72)."""

FP8_DECODE = replace(DECODE, programs=3)
"""Over pages of 8-bit floats with wide heads: keys of both formats, and queries in two, take up to 166 registers."""

LONG = {
    NARROW_HEAD: TileShape(rows=128, keys=64, num_warps=8, num_stages=3, split_tiles=8, programs=1),
    WIDE_HEAD: TileShape(rows=128, keys=64, num_warps=8, num_stages=3, split_tiles=8, programs=1),
}
AMPERE_LONG = {NARROW_HEAD: LONG[NARROW_HEAD], WIDE_HEAD: TileShape(rows=64, keys=64, num_warps=8, num_stages=2, split_tiles=8, programs=1)}

BULK_LONG = TileShape(rows=128, keys=128, num_warps=8, num_stages=2, split_tiles=4, programs=1, own_in_bulk=True, pages_in_bulk=True)
BULK_DECODE = replace(DECODE, pages_in_bulk=True)
"""Neither is shipped before a GPU has timed it (`loadtests.gpu.candidates`); both compile like those that are, for Hopper and later."""

# Each compiles without a register spill under every Triton we support, with the matrix instructions of its generation. At head 128 on
# Hopper, 128 x 128 key by key with 8 warps does not (82 to 87 loads and stores of local memory); nor does 128 x 64 on Ampere (38).
SHIPPED: dict[tuple[Generation, Kind, int], TileShape] = {
    (generation, kind, width): DECODE if kind is Kind.DECODE else long[width]
    for generation, long in ((Generation.AMPERE, AMPERE_LONG), (Generation.HOPPER, LONG), (Generation.BLACKWELL, LONG))
    for kind in Kind
    for width in (NARROW_HEAD, WIDE_HEAD)
}
