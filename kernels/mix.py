"""How the velocities of an image's branches become one, as `kernels.guidance` and its Triton kernel take it.

Guidance of either kind (BAGEL spec 6.2, ILLUME-X eq. 3) is a weighted sum of three velocities in two stages; a `Mix` holds the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class RenormOver(IntEnum):
    """Over what the norm of the guided velocity is held to that of the unguided one."""

    NOTHING = 0
    IMAGE = 1
    TOKEN = 2
    TOKEN_BEFORE_SECOND = 3
    """Each token's, before the second velocity is mixed in."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How velocities become one: ``inner = first[0] full + first[1] first_velocity``, ``second[0] inner + second[1] second_velocity``.

    ``first`` or ``second`` is None where that velocity is not needed. The renorm's ratio is at least ``renorm_min`` and at most 1.
    """

    first: tuple[float, float] | None = None
    second: tuple[float, float] | None = None
    renorm: RenormOver = RenormOver.NOTHING
    renorm_min: float = 0.0


@dataclass(frozen=True, slots=True)
class GuidedStep:
    """One image's Euler step: where its velocities begin among all, and how far it goes. Starts that its mix does not need are 0."""

    mix: Mix
    num_tokens: int
    full_start: int
    first_start: int
    second_start: int
    dt: float
