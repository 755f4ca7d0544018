"""The closed choices of guidance, by name. No tensors: requests and profiles use them too."""

from __future__ import annotations

from enum import Enum


class GuidanceMode(Enum):
    """BAGEL: nested text then image guidance with renorm (spec 6.2). ILLUME: the three-term sum of eq. 3 (spec 8.4)."""

    BAGEL = "bagel"
    ILLUME = "illume"


class Renorm(Enum):
    """Over what the norm of the guided velocity is held to that of the unguided one (spec 6.2)."""

    GLOBAL = "global"
    CHANNEL = "channel"
    TEXT_CHANNEL = "text_channel"
