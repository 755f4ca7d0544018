"""Draws tokens in Triton without sorting: the same tokens as `kernels.sampling` draws on a CPU, from the same uniform numbers.

One launch changes the logits that penalties, biases and suppressions name; one before it counts the tokens that only the device knows yet
among those that penalties lower. Four more, none of which the host waits for:

    max     a program a block of a row   largest logit
    mass    a program a block of a row   sum of the weights exp((x - max) / temperature), below min-p none
    gather  a program a row              the logits from which top-k or top-p will be full, found in strides that grow from the largest
    choose  a program a row              where the uniform number falls

Everything top-k, top-p and min-p keep is a beginning of the row in falling order, and only how much lies above a logit is ever asked: by
bisection over the logits' bits, which are ordered as they are. Equal logits have equal weights, so a place among them is a quotient, and
the first of them by id comes first, as in a stable sort. Rows without top-k and top-p are drawn in the order of ids, by the blocks' masses.

Weights and sums are float64, as on a CPU; sums differ from those in their last bits by their order, so that a number within some 1e-13 of
an edge may fall on its other side. A vocabulary of 152,064 in bfloat16 is read three times, 0.9 MB a row; candidates are a few hundred.
"""

# A Triton kernel has no Python types: what it takes are pointers and numbers of the device.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.logit_changes import Changes
from kernels.upload import upload_tensor

BLOCK, CHUNK = 4096, 1024
"""Logits, and candidates, that a program looks at at once."""
BLOCK_WARPS, CHOOSE_WARPS = 8, 4
"""With 8 warps ptxas gives the last kernel 80 registers and spills up to 36 times."""
NUM_SETTINGS = 5
"""Of a row, float64: temperature, top-k, top-p, min-p, the uniform number."""

CHANGE_FIELDS, SPAN_FIELDS = 6, 4
"""Of a change and of a row's span of them, 32 bits each: see `kernels.logit_changes.Changes`."""
CHANGES_OF_PROGRAM = 128
CHANGE_WARPS = 4
FED_BLOCK = 512
"""Changes of a row among which the token it was fed is looked for at once."""

LINE = tl.constexpr(NUM_SETTINGS)
CHANGE = tl.constexpr(CHANGE_FIELDS)
SPAN = tl.constexpr(SPAN_FIELDS)
FIRST_STRIDE = tl.constexpr(1 << 16)
"""In units of the last place: an eighth of a unit for logits between 16 and 32."""
LAST_STRIDE = tl.constexpr(1 << 33)
"""From any float32 beyond the smallest."""


def adjust_with_triton(logits: torch.Tensor, changes: Changes, fed: torch.Tensor | None = None) -> None:
    """Change single logits of ``[num_rows, vocab]`` in place.

    A logit is divided by its penalty, or multiplied where it is negative, then lowered, then raised; rounded to its dtype after each.
    ``fed``, int64 ``[num_rows]``, are the tokens that the rows were fed; None where no row counts its own.
    """
    num = len(changes.table)
    if num:
        table = upload_tensor(torch.from_numpy(changes.table), logits.device)
        if len(changes.spans):
            assert fed is not None
            spans = upload_tensor(torch.from_numpy(changes.spans), logits.device)
            count_fed_kernel[(len(changes.spans),)](table, spans, fed, BLOCK=FED_BLOCK, num_warps=CHANGE_WARPS)
        grid = (triton.cdiv(num, CHANGES_OF_PROGRAM),)
        adjust_kernel[grid](logits, table, num, logits.stride(0), BLOCK=CHANGES_OF_PROGRAM, num_warps=CHANGE_WARPS)


def draw_with_triton(logits: torch.Tensor, settings: torch.Tensor) -> torch.Tensor:
    """Draw one token a row.

    Args:
        logits: ``[num_rows, vocab]``, rows contiguous, no number of them NaN, at least one of each row finite.
        settings: float64 ``[num_rows, NUM_SETTINGS]``; temperature 0 is greedy, top-k 0 and top-p 1 are off.

    Returns:
        int64 ``[num_rows]``.
    """
    num_rows, vocab = logits.shape
    num_blocks = triton.cdiv(vocab, BLOCK)
    drawn = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    maxima = torch.empty(num_rows, num_blocks, dtype=torch.float32, device=logits.device)
    masses = torch.empty(num_rows, num_blocks, dtype=torch.float64, device=logits.device)
    ids, spans = drawn.new_empty((num_rows, vocab), dtype=torch.int32), drawn.new_empty((num_rows, 2))
    sizes, blocks = (vocab, num_blocks), {"BLOCK": BLOCK, "BLOCKS": triton.next_power_of_2(num_blocks)}
    by_block, stride = (num_rows, num_blocks), logits.stride(0)
    max_kernel[by_block](logits, maxima, *sizes, stride, BLOCK=BLOCK, num_warps=BLOCK_WARPS)
    mass_kernel[by_block](logits, maxima, masses, settings, *sizes, stride, **blocks, num_warps=BLOCK_WARPS)
    gather_kernel[(num_rows,)](logits, maxima, masses, settings, ids, spans, *sizes, stride, **blocks, num_warps=BLOCK_WARPS)
    choose_kernel[(num_rows,)](
        logits, maxima, masses, settings, ids, spans, drawn, *sizes, stride, **blocks, CHUNK=CHUNK, num_warps=CHOOSE_WARPS
    )  # fmt: skip
    return drawn


@triton.jit
def key_of(x):
    """Return int64 numbers in the order of the float32 ``x``; both zeros are one."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)


@triton.jit
def load_row(logits_ptr, index, vocab):
    return tl.load(logits_ptr + index, mask=index < vocab, other=float("-inf")).to(tl.float32)


@triton.jit
def largest_of(maxima_ptr, row, num_blocks, BLOCKS: tl.constexpr):
    b = tl.arange(0, BLOCKS)
    return tl.max(tl.load(maxima_ptr + row * num_blocks + b, mask=b < num_blocks, other=float("-inf")), 0)


@triton.jit
def weights_of(x, largest, temperature, min_p):
    """Return float64 weights, 1 for the largest logit."""
    weight = tl.exp((x.to(tl.float64) - largest.to(tl.float64)) / temperature)
    return tl.where(weight >= min_p, weight, 0.0)


@triton.jit
def count_fed_kernel(changes, spans, fed_ptr, BLOCK: tl.constexpr):
    """Count the token that a row was fed once more: in the change it has, or else in the row's spare one."""
    span = spans + tl.program_id(0) * SPAN
    start, spare = tl.load(span + 1), tl.load(span + 2)
    token = tl.load(fed_ptr + tl.load(span)).to(tl.int32)
    place = spare
    for first in range(start, spare, BLOCK):
        i = first + tl.arange(0, BLOCK)
        tokens = tl.load(changes + i * CHANGE + 1, mask=i < spare, other=-1)
        place = tl.minimum(place, tl.min(tl.where(tokens == token, i, spare), 0))
    line = changes + place * CHANGE
    tl.store(line + 1, token)
    tl.store(line + 2, tl.load(span + 3))
    tl.store(line + 3, tl.load(line + 5))


# The number of changes differs from step to step: no kernel of its own for 1, or for 16.
@triton.jit(do_not_specialize=["num"])
def adjust_kernel(logits_ptr, changes, num, stride, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    line = changes + i * CHANGE
    token = tl.load(line + 1, mask=i < num, other=-1)
    is_there = token >= 0
    place = logits_ptr + tl.load(line, mask=is_there, other=0).to(tl.int64) * stride + token
    penalty = tl.load(line + 2, mask=is_there, other=0x3F800000).to(tl.float32, bitcast=True)
    lowered = tl.load(line + 3, mask=is_there, other=0).to(tl.float32, bitcast=True)
    raised = tl.load(line + 4, mask=is_there, other=0).to(tl.float32, bitcast=True)
    dtype = logits_ptr.dtype.element_ty
    x = tl.load(place, mask=is_there, other=0.0).to(tl.float32)
    penalty = penalty.to(dtype).to(tl.float32)
    x = tl.where(x > 0.0, tl.div_rn(x, penalty), x * penalty).to(dtype).to(tl.float32)
    x = (x - lowered.to(dtype).to(tl.float32)).to(dtype).to(tl.float32)
    tl.store(place, (x + raised.to(dtype).to(tl.float32)).to(dtype), mask=is_there)


@triton.jit
def max_kernel(logits_ptr, maxima_ptr, vocab, num_blocks, stride, BLOCK: tl.constexpr):
    row, block = tl.program_id(0), tl.program_id(1)
    x = load_row(logits_ptr + row.to(tl.int64) * stride, block * BLOCK + tl.arange(0, BLOCK), vocab)
    tl.store(maxima_ptr + row * num_blocks + block, tl.max(x, 0))


@triton.jit
def mass_kernel(logits_ptr, maxima_ptr, masses_ptr, settings, vocab, num_blocks, stride, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    row, block = tl.program_id(0), tl.program_id(1)
    temperature = tl.load(settings + row * LINE)
    if temperature > 0.0:
        largest = largest_of(maxima_ptr, row, num_blocks, BLOCKS)
        x = load_row(logits_ptr + row.to(tl.int64) * stride, block * BLOCK + tl.arange(0, BLOCK), vocab)
        weight = weights_of(x, largest, temperature, tl.load(settings + row * LINE + 3))
        tl.store(masses_ptr + row * num_blocks + block, tl.sum(weight, 0))


@triton.jit
def gather_kernel(
    logits_ptr, maxima_ptr, masses_ptr, settings, ids_ptr, spans,
    vocab, num_blocks, stride, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """List the ids of all logits that are near enough to the largest for top-k, or else top-p, to end among them; in rising order."""
    row = tl.program_id(0)
    temperature = tl.load(settings + row * LINE)
    top_k, top_p = tl.load(settings + row * LINE + 1), tl.load(settings + row * LINE + 2)
    if (temperature > 0.0) & ((top_k > 0.0) | (top_p < 1.0)):
        min_p = tl.load(settings + row * LINE + 3)
        logits_ptr += row.to(tl.int64) * stride
        ids_ptr += row.to(tl.int64) * vocab
        maxima_ptr += row * num_blocks
        largest = largest_of(maxima_ptr, 0, num_blocks, BLOCKS)
        b = tl.arange(0, BLOCKS)
        total = tl.sum(tl.load(masses_ptr + row * num_blocks + b, mask=b < num_blocks, other=0.0), 0)
        wanted = tl.where(top_k > 0.0, top_k, top_p * total)
        k = tl.arange(0, BLOCK)

        step = (FIRST_STRIDE + tl.zeros((), tl.int64)) // 4
        found = -1.0 + tl.zeros((), tl.float64)
        least = key_of(largest)
        while (found < wanted) & (step < LAST_STRIDE):
            step *= 4
            least = key_of(largest) - step
            found = tl.zeros((), tl.float64)
            for block in range(num_blocks):
                if key_of(tl.load(maxima_ptr + block)) >= least:
                    x = load_row(logits_ptr, block * BLOCK + k, vocab)
                    weight = tl.where(top_k > 0.0, 1.0, weights_of(x, largest, temperature, min_p))
                    found += tl.sum(tl.where((key_of(x) >= least) & (block * BLOCK + k < vocab), weight, 0.0), 0)

        num = tl.zeros((), tl.int32)
        for block in range(num_blocks):
            if key_of(tl.load(maxima_ptr + block)) >= least:
                index = block * BLOCK + k
                is_near = (key_of(load_row(logits_ptr, index, vocab)) >= least) & (index < vocab)
                place = num + tl.cumsum(is_near.to(tl.int32), 0) - 1
                tl.store(ids_ptr + place, index, mask=is_near)
                num += tl.sum(is_near.to(tl.int32), 0)
        tl.store(spans + row * 2, num.to(tl.int64))
        tl.store(spans + row * 2 + 1, least)


@triton.jit
def above(key, logits_ptr, ids_ptr, num, largest, temperature, min_p, CHUNK: tl.constexpr):
    """Return how many candidates' logits are at least ``key``, and their weight."""
    count = tl.zeros((), tl.int32)
    mass = tl.zeros((), tl.float64)
    for start in range(0, num, CHUNK):
        place = start + tl.arange(0, CHUNK)
        x = tl.load(logits_ptr + tl.load(ids_ptr + place, mask=place < num, other=0)).to(tl.float32)
        is_in = (place < num) & (key_of(x) >= key)
        count += tl.sum(is_in.to(tl.int32), 0)
        mass += tl.sum(tl.where(is_in, weights_of(x, largest, temperature, min_p), 0.0), 0)
    return count, mass


@triton.jit
def edge(
    wanted, BY_COUNT: tl.constexpr, least, logits_ptr, ids_ptr, num, largest, temperature, min_p, CHUNK: tl.constexpr
):  # fmt: skip
    """Find the largest key, ``least`` or more, from which on there are ``wanted`` candidates, or there is so much weight.

    Returns the key, how many lie above it and their weight, how many have it, and the weight of one of these.
    """
    low = least
    high = key_of(largest) + 1
    while high - low > 1:
        middle = low + (high - low) // 2
        count, mass = above(middle, logits_ptr, ids_ptr, num, largest, temperature, min_p, CHUNK)
        is_enough = (count.to(tl.float64) if BY_COUNT else mass) >= wanted
        low = tl.where(is_enough, middle, low)
        high = tl.where(is_enough, high, middle)
    count_above, mass_above = above(low + 1, logits_ptr, ids_ptr, num, largest, temperature, min_p, CHUNK)
    count, mass = above(low, logits_ptr, ids_ptr, num, largest, temperature, min_p, CHUNK)
    ties = count - count_above
    return low, count_above, mass_above, ties, (mass - mass_above) / tl.maximum(ties, 1)


@triton.jit
def ordered_draw(
    logits_ptr, ids_ptr, num, least, largest, temperature, top_k, top_p, min_p, number, total, CHUNK: tl.constexpr
):  # fmt: skip
    """Draw in falling order of the logits, from what top-k, top-p and min-p keep; equal logits in rising order of their ids."""
    kept = total
    if top_k > 0.0:
        _, count_above, mass_above, ties, weight = edge(top_k, True, least, logits_ptr, ids_ptr, num, largest, temperature, min_p, CHUNK)
        kept = mass_above + tl.minimum(top_k - count_above, ties.to(tl.float64)) * weight
    if top_p < 1.0:
        cut = top_p * kept
        _, _, mass_above, ties, weight = edge(cut, False, least, logits_ptr, ids_ptr, num, largest, temperature, min_p, CHUNK)
        num_ties = tl.minimum(tl.ceil((cut - mass_above) / tl.where(weight > 0.0, weight, 1.0)), ties.to(tl.float64))
        kept = tl.minimum(mass_above + num_ties * weight, kept)
    fall = number * kept
    key, _, mass_above, ties, weight = edge(fall, False, least, logits_ptr, ids_ptr, num, largest, temperature, min_p, CHUNK)
    last = tl.minimum(ties, tl.ceil((kept - mass_above) / tl.where(weight > 0.0, weight, 1.0)).to(tl.int32)) - 1
    tie = ((fall - mass_above) / tl.where(weight > 0.0, weight, 1.0)).to(tl.int32)
    return nth_of_key(key, tl.maximum(tl.minimum(tie, last), 0), logits_ptr, ids_ptr, num, CHUNK)


@triton.jit
def nth_of_key(key, nth, logits_ptr, ids_ptr, num, CHUNK: tl.constexpr):
    """Return the id of the ``nth`` candidate whose logit has this key."""
    seen = tl.zeros((), tl.int32)
    token = tl.zeros((), tl.int32)
    for start in range(0, num, CHUNK):
        place = start + tl.arange(0, CHUNK)
        ids = tl.load(ids_ptr + place, mask=place < num, other=0)
        has_key = (place < num) & (key_of(tl.load(logits_ptr + ids).to(tl.float32)) == key)
        rank = seen + tl.cumsum(has_key.to(tl.int32), 0) - 1
        token += tl.sum(tl.where(has_key & (rank == nth), ids, 0), 0)
        seen += tl.sum(has_key.to(tl.int32), 0)
    return token


@triton.jit
def falls_at(cumulative, weight, number):
    """Return the first place whose cumulative sum exceeds ``number``, at most the last one that weighs anything."""
    i = tl.arange(0, cumulative.shape[0])
    last = tl.max(tl.where(weight > 0.0, i, 0), 0)
    return tl.minimum(tl.sum((cumulative <= number).to(tl.int32), 0), last)


@triton.jit
def draw_by_id(
    logits_ptr, masses_ptr, largest, temperature, min_p, number, vocab, num_blocks, BLOCK: tl.constexpr, BLOCKS: tl.constexpr
):  # fmt: skip
    """Draw in the order of ids: first the block, then the token in it."""
    b = tl.arange(0, BLOCKS)
    masses = tl.load(masses_ptr + b, mask=b < num_blocks, other=0.0)
    cumulative = tl.cumsum(masses, 0)
    threshold = number * tl.sum(masses, 0)
    block = falls_at(cumulative, masses, threshold)
    before = tl.sum(tl.where(b < block, masses, 0.0), 0)
    weight = weights_of(load_row(logits_ptr, block * BLOCK + tl.arange(0, BLOCK), vocab), largest, temperature, min_p)
    return block * BLOCK + falls_at(before + tl.cumsum(weight, 0), weight, threshold)


@triton.jit
def first_largest(logits_ptr, maxima_ptr, largest, vocab, num_blocks, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    """Return the first id that has the largest logit."""
    b = tl.arange(0, BLOCKS)
    maxima = tl.load(maxima_ptr + b, mask=b < num_blocks, other=float("-inf"))
    block = tl.min(tl.where((maxima == largest) & (b < num_blocks), b, BLOCKS), 0)
    index = block * BLOCK + tl.arange(0, BLOCK)
    return tl.min(tl.where((load_row(logits_ptr, index, vocab) == largest) & (index < vocab), index, vocab), 0)


@triton.jit
def choose_kernel(
    logits_ptr, maxima_ptr, masses_ptr, settings, ids_ptr, spans, drawn_ptr,
    vocab, num_blocks, stride, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    logits_ptr += row.to(tl.int64) * stride
    ids_ptr += row.to(tl.int64) * vocab
    maxima_ptr += row * num_blocks
    masses_ptr += row * num_blocks
    settings += row * LINE
    temperature, top_k, top_p = tl.load(settings), tl.load(settings + 1), tl.load(settings + 2)
    min_p, number = tl.load(settings + 3), tl.load(settings + 4)
    largest = largest_of(maxima_ptr, 0, num_blocks, BLOCKS)
    if temperature == 0.0:
        token = first_largest(logits_ptr, maxima_ptr, largest, vocab, num_blocks, BLOCK, BLOCKS)
    elif (top_k > 0.0) | (top_p < 1.0):
        b = tl.arange(0, BLOCKS)
        total = tl.sum(tl.load(masses_ptr + b, mask=b < num_blocks, other=0.0), 0)
        num, least = tl.load(spans + row * 2).to(tl.int32), tl.load(spans + row * 2 + 1)
        token = ordered_draw(logits_ptr, ids_ptr, num, least, largest, temperature, top_k, top_p, min_p, number, total, CHUNK)
    else:
        token = draw_by_id(logits_ptr, masses_ptr, largest, temperature, min_p, number, vocab, num_blocks, BLOCK, BLOCKS)
    tl.store(drawn_ptr + row, token.to(tl.int64))
