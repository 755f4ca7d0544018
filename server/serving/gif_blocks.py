"""The blocks of a GIF file, walked before Pillow reads it: how many pictures it holds, and that it is no more than its bytes are worth.

Pillow reads a block at a time, in Python: twenty megabytes in blocks of one byte would keep it busy for a minute.
"""

from __future__ import annotations

SCREEN_BYTES = 13
"""Signature and screen descriptor."""

EXTENSION, PICTURE, END = 0x21, 0x2C, 0x3B
HAS_COLOURS = 0x80

BYTES_PER_BLOCK = 64
MIN_BLOCKS = 1000
"""Encoders fill blocks with 255 bytes; a file may have one for every 64, and some more for its small parts."""


def count_pictures(encoded: bytes) -> int:
    """Return how many pictures a GIF file holds.

    Raises:
        IndexError: it is truncated.
        ValueError: it is no GIF file, or has far more blocks than its bytes need.
    """
    blocks_left = MIN_BLOCKS + len(encoded) // BYTES_PER_BLOCK
    num_pictures = 0
    at = SCREEN_BYTES + _colours_bytes(encoded[SCREEN_BYTES - 3])
    while (kind := encoded[at]) != END:
        if kind == EXTENSION:
            at += 2
        elif kind == PICTURE:
            num_pictures += 1
            at += 11 + _colours_bytes(encoded[at + 9])
        else:
            raise ValueError("unknown kind of block")
        while size := encoded[at]:
            at += 1 + size
            blocks_left -= 1
            if blocks_left < 0:
                raise ValueError("too many blocks")
        at += 1
        blocks_left -= 1
    return num_pictures


def _colours_bytes(flags: int) -> int:
    """Return the size of the table of colours that follows a descriptor with these flags."""
    return 3 << (flags & 7) + 1 if flags & HAS_COLOURS else 0
