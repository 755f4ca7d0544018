"""Picture files for tests, sound and otherwise."""

from __future__ import annotations

import base64
import io
import struct
import zlib

from PIL import Image


def encoded_picture(width: int, height: int, file_format: str = "PNG", colour: str = "red") -> bytes:
    """Return a picture file of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, file_format)
    return buffer.getvalue()


def uri(encoded: bytes) -> str:
    """Return a data URI, whatever the bytes are."""
    return "data:image/png;base64," + base64.b64encode(encoded).decode()


def picture_uri(width: int = 32, height: int = 32, file_format: str = "PNG", colour: str = "red") -> str:
    return uri(encoded_picture(width, height, file_format, colour))


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and has next to no content: cheap to send, dear to decode."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(8))), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in chunks)
    return b"\x89PNG\r\n\x1a\n" + body
