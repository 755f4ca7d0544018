"""Where neighbouring tokens of a row stand together in the packed batch too: what one bulk copy can load.

    row order     | BOI | latents ............... | EOI |
    packed order    7     20 21 22 ........... 1043  8

The latents of a picture do, and text and ViT patches between latents; markers around latents stand elsewhere. A row has few runs, and
where they begin does not depend on who shares the batch, since markers stand between the two experts' tokens.
"""

from __future__ import annotations

import numpy as np

from kernels.plan import IntArray, RowLayout

LENGTH_BITS = 32


def longest_runs(layout: RowLayout, rows: range) -> tuple[IntArray, IntArray]:
    """Return for each of neighbouring rows where its longest run of tokens begins and ends, counted from the row's first token."""
    starts = layout.qo_indptr[rows.start : rows.stop + 1]
    index = layout.token_index[starts[0] : starts[-1]]
    row_starts = starts[:-1] - starts[0]
    is_bound = np.empty(len(index) + 1, dtype=np.bool_)
    np.not_equal(index[1:], index[:-1] + 1, out=is_bound[1:-1])
    is_bound[row_starts] = is_bound[-1] = True
    bounds = is_bound.nonzero()[0]
    firsts = bounds[:-1]
    # Length and place in one number, so that the largest of a row says both.
    longest = np.maximum.reduceat((bounds[1:] - firsts) << LENGTH_BITS | firsts, firsts.searchsorted(row_starts))
    begin = (longest & (1 << LENGTH_BITS) - 1).astype(np.int32) - row_starts
    return begin, begin + (longest >> LENGTH_BITS).astype(np.int32)
