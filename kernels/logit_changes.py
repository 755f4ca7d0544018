"""What penalties, biases and suppressions do to single logits, as the host tells the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of logits, those of a row one after another, no two of one logit; float32 numbers by their bits.

    Attributes:
        table: int32 ``[num, 6]``: row, token, repetition penalty, what is taken off, what is added, and what is taken off of the token that
            the row was fed, which is counted once more.
        spans: int32 ``[num_counting_fed, 4]``: row, its first change and the one after its last, repetition penalty. The change after the
            last is a spare one, of token -1, for a token that is not among the others.
    """

    table: Ints
    spans: Ints
