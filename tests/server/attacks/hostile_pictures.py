"""Picture files made to break a reader, or to cost it far more than they cost to send. Each with what it is for in its name."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from tests.server.picture_files import encoded_picture

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3


def hostile_pictures() -> dict[str, bytes]:
    """Return every hostile file by name."""
    return {
        **_bombs(),
        **_broken_pngs(),
        **_other_containers(),
        **_metadata(),
        **_polyglots(),
        **_broken_jpegs_and_webps(),
        **_broken_gifs(),
    }


def chunk(name: bytes, body: bytes, checksum: int | None = None) -> bytes:
    """Return a PNG chunk; a wrong ``checksum`` on request."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) if checksum is None else checksum)


def png(width: int, height: int, depth: int = 8, colour: int = RGB, *chunks: bytes) -> bytes:
    """Return a PNG with any header, and these chunks after it."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return PNG_SIGNATURE + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def _rows(num_bytes: int) -> bytes:
    return chunk(b"IDAT", zlib.compress(bytes(num_bytes), 9))


def _bombs() -> dict[str, bytes]:
    white = io.BytesIO()
    Image.new("1", (12_000, 12_000), 1).save(white, "PNG")
    jpeg = bytearray(encoded_picture(16, 16, "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = struct.pack(">HH", 65_000, 65_000)
    return {
        "one-bit bomb of 40,000 x 40,000": png(40_000, 40_000, 1, GREY, _rows(1 << 20)),
        "one-bit picture of 144 million pixels": white.getvalue(),
        "16-bit bomb": png(30_000, 30_000, 16, RGB, _rows(1 << 20)),
        "palette bomb": png(20_000, 20_000, 8, PALETTE, chunk(b"PLTE", bytes(768)), _rows(1 << 20)),
        "width of 2^31 - 1": png(2**31 - 1, 1, 8, GREY, _rows(100)),
        "height of 2^31 - 1": png(1, 2**31 - 1, 8, GREY, _rows(100)),
        "sides of 2^32 - 1": png(2**32 - 1, 2**32 - 1, 8, RGB, _rows(100)),
        "one pixel high": png(16_000, 1, 8, RGB, _rows(48_001)),
        "one pixel wide": png(1, 16_000, 8, RGB, _rows(64_000)),
        "JPEG of 65,000 x 65,000": bytes(jpeg),
        "WebP of 16,383 x 16,383": _webp_of(16_383, 16_383),
    }


def _webp_of(width: int, height: int) -> bytes:
    """Return a lossless WebP whose header claims a size and whose data end at once."""
    bits = (width - 1) | (height - 1) << 14
    body = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + struct.pack("<I", bits) + b"\x00"
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _broken_pngs() -> dict[str, bytes]:
    good = encoded_picture(64, 64, "PNG")
    noisy = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(noisy, "PNG")
    data = noisy.getvalue()
    return {
        "nothing": b"",
        "signature alone": PNG_SIGNATURE,
        "PNG cut in its header": good[:20],
        "PNG cut in its data": data[: len(data) // 2],
        "PNG without its end": data[:-12],
        "PNG with a wrong checksum": data.replace(b"IDAT", b"IDAt", 1),
        "PNG whose data checksum lies": png(4, 4, 8, RGB, chunk(b"IDAT", zlib.compress(bytes(52)), 1)),
        "PNG with no data": png(64, 64),
        "PNG with too little data": png(64, 64, 8, RGB, _rows(10)),
        "PNG whose data are not compressed": png(8, 8, 8, RGB, chunk(b"IDAT", b"plain text")),
        "PNG of no size": png(0, 0, 8, RGB, _rows(1)),
        "PNG of an unknown depth": png(8, 8, 7, RGB, _rows(300)),
        "PNG of an unknown colour type": png(8, 8, 8, 9, _rows(300)),
        "PNG whose chunk claims 4 GB": PNG_SIGNATURE
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, RGB, 0, 0, 0))
        + b"\xff\xff\xff\xffIDAT",
        "PNG with 20,000 empty chunks": png(8, 8, 8, RGB, chunk(b"abCd", b"") * 20_000),
    }


def _other_containers() -> dict[str, bytes]:
    animated_png, animated_webp, gif, tiff, bmp = (io.BytesIO() for _ in range(5))
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    frames[0].save(animated_png, "PNG", save_all=True, append_images=frames[1:])
    frames[0].save(animated_webp, "WEBP", save_all=True, append_images=frames[1:])
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    frames[0].save(tiff, "TIFF")
    frames[0].save(bmp, "BMP")
    return {
        "animated PNG": animated_png.getvalue(),
        "animated WebP": animated_webp.getvalue(),
        "animated GIF": gif.getvalue(),
        "TIFF": tiff.getvalue(),
        "BMP": bmp.getvalue(),
        "SVG that reads a file": b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        "PostScript that deletes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n(/etc/passwd) deletefile\n",
        "PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
        "FITS bomb": b"SIMPLE  =                    T" + b" " * 50 + b"NAXIS1  =           2147483647",
        "ICO": b"\x00\x00\x01\x00\x01\x00" + bytes(64),
        "zip": b"PK\x03\x04" + bytes(64),
    }


def _metadata() -> dict[str, bytes]:
    big = zlib.compress(bytes(64 << 20), 9)
    return {
        "iCCP bomb": png(8, 8, 8, RGB, chunk(b"iCCP", b"x\x00\x00" + big), _rows(200)),
        "zTXt bomb": png(8, 8, 8, RGB, chunk(b"zTXt", b"x\x00\x00" + big), _rows(200)),
        "iTXt bomb": png(8, 8, 8, RGB, chunk(b"iTXt", b"x\x00\x01\x00\x00\x00" + big), _rows(200)),
        "a thousand texts": png(8, 8, 8, RGB, chunk(b"zTXt", b"x\x00\x00" + zlib.compress(bytes(1 << 20), 9)) * 1000, _rows(200)),
    }


def _polyglots() -> dict[str, bytes]:
    return {
        "PNG signature before a JPEG": PNG_SIGNATURE + encoded_picture(16, 16, "JPEG"),
        "JPEG mark before a PNG": b"\xff\xd8\xff" + encoded_picture(16, 16, "PNG"),
        "RIFF that is sound": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(64),
        "WebP mark before a PNG": b"RIFF\x24\x00\x00\x00WEBP" + encoded_picture(16, 16, "PNG"),
        "script before a PNG": b"<script>alert(1)</script>" + encoded_picture(16, 16, "PNG"),
    }


def _broken_jpegs_and_webps() -> dict[str, bytes]:
    jpeg, webp = encoded_picture(64, 64, "JPEG"), encoded_picture(64, 64, "WEBP")
    return {
        "JPEG mark alone": b"\xff\xd8\xff",
        "JPEG cut in its tables": jpeg[:100],
        "JPEG of endless markers": b"\xff\xd8" + b"\xff" * 200_000,
        "JPEG of no size": jpeg.replace(b"\x00\x40\x00\x40", b"\x00\x00\x00\x00"),
        "JPEG of 9 components": jpeg.replace(b"\xff\xc0\x00\x11\x08\x00\x40\x00\x40\x03", b"\xff\xc0\x00\x11\x08\x00\x40\x00\x40\x09"),
        "WebP cut": webp[: len(webp) // 2],
        "WebP whose length lies": webp[:4] + b"\xff\xff\xff\x7f" + webp[8:20],
        "WebP of zeros": b"RIFF\x24\x00\x00\x00WEBP" + bytes(64),
    }


def _broken_gifs() -> dict[str, bytes]:
    noisy = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(noisy, "GIF")
    good = noisy.getvalue()
    frame = good.rindex(b",\x00\x00\x00\x00\x40\x00\x40\x00")
    return {
        "GIF mark alone": b"GIF89a",
        "GIF cut in its colours": good[:100],
        "GIF cut in its data": good[: len(good) // 2],
        "GIF without its end": good[:-1],
        "GIF with too little data": good[:-500] + b"\x00;",
        "GIF of 65,535 x 65,535": good[:6] + b"\xff\xff\xff\xff" + good[10:],
        "GIF whose frame is 65,535 x 65,535": good[: frame + 5] + b"\xff\xff\xff\xff" + good[frame + 9 :],
        "GIF of two million blocks": good[:frame] + b"!\xfe" + b"\x01\x00" * 2_000_000 + b"\x00" + good[frame:],
        "GIF of two million extensions": good[:frame] + b"!\xf9\x00" * 2_000_000 + good[frame:],
        "GIF of eleven frames": good[:frame] + good[frame:-1] * 11 + b";",
    }
