"""What rows cost, in the terms of the cost model: tokens of each expert, attended pairs, pixels that pass an encoder or the decoder."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from server.engine.batch import DecodeRow, Piece, TextPiece
from server.engine.context import Context
from server.engine.cost_model import NO_LOAD, Load
from server.engine.segments import NUM_MARKERS, VaeImage, VitImage
from server.engine.sequence import Sequence
from server.messages import Picture


def decodes_load(rows: Collection[DecodeRow | Context]) -> Load:
    """Return the load of decode rows, or of one for each of some contexts."""
    if not rows:
        return NO_LOAD
    num, num_keys = len(rows), sum(row.kv_len for row in rows)
    return Load(und_tokens=num, pairs=num + num_keys, rows=num, keys=num_keys)


def load_of_next_tokens(decoding: Iterable[Sequence]) -> Load:
    """Return the load of one decode row for each of some texts."""
    return decodes_load([text.full for text in decoding])


def denoise_load(num_latents: int, kv_len: int) -> Load:
    """Return the load of one denoise row over a context of ``kv_len`` rows."""
    num_tokens = num_latents + NUM_MARKERS
    return Load(1, 1, 1, NUM_MARKERS, num_latents, num_tokens * (kv_len + num_tokens), 1, keys=kv_len)


def decoder_load(height: int, width: int) -> Load:
    """Return the load of decoding a finished picture."""
    return Load(1, 1, 1, decoded_pixels=height * width)


def chunk_load(pieces: list[Piece], kv_len: int) -> Load:
    """Return the load of a prefill row that starts after ``kv_len`` rows."""
    load = row_load(kv_len)
    for piece in pieces:
        load = load.joined(piece_load(piece, kv_len))
        kv_len += piece.num_rows
    return load


def row_load(kv_len: int) -> Load:
    """Return the load of a prefill row that starts after ``kv_len`` rows, but for its pieces."""
    return Load(1, 1, rows=1, keys=kv_len)


def text_load(num_tokens: int, kv_len: int) -> Load:
    """Return the load of so many tokens of a text after ``kv_len`` rows."""
    return Load(1, 1, und_tokens=num_tokens, pairs=num_tokens * kv_len + num_tokens * (num_tokens + 1) / 2)


def piece_load(piece: Piece, kv_len: int) -> Load:
    """Return the load of one piece of a prefill row, but for the row itself."""
    num = piece.num_rows
    match piece:
        case TextPiece():
            return text_load(num, kv_len)
        case VitImage():
            return Load(1, 1, und_tokens=num, pairs=num * (kv_len + num), encoded_pixels=_num_pixels(piece.picture))
        case VaeImage():
            pixels = _num_pixels(piece.picture)
            return Load(1, 1, 1, NUM_MARKERS, num - NUM_MARKERS, num * (kv_len + num), encoded_pixels=pixels)
        case _:
            return NO_LOAD


def _num_pixels(picture: Picture) -> int:
    return picture.height * picture.width
