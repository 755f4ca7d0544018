"""How pictures come in: bytes from the request or, where the operator allows it, from an address; then through a reader process."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Protocol

from server.errors import ImageTooLarge, InvalidImage, UnsupportedParameter
from server.messages import ImageSegment
from server.serving.asks import PicturePart
from server.serving.interest import Interest
from server.serving.picture_readers import PictureReaders

BASE64 = re.compile(r"; *base64$", re.IGNORECASE)
"""The end of a media type whose body is base64 (WHATWG: Fetch, data: URL processor)."""

WHITE_SPACE = b"\t\n\f\r "
ESCAPED = {f"%{byte:02{case}}".encode(): bytes([byte]) for byte in b"+/=" + WHITE_SPACE for case in "Xx"}
"""What may be percent-encoded in base64: whatever else is has no need to be."""


class Fetch(Protocol):
    """Gets a picture from an address; see `server.access.fetch`."""

    def __call__(self, url: str, param: str, max_bytes: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class PictureIntake:
    """Turns what a client sent into what the towers read. Slow: call it in a thread. ``fetch`` None: addresses are refused."""

    readers: PictureReaders
    fetch: Fetch | None = None

    def segment(self, part: PicturePart, interest: Interest, *, draws: bool) -> ImageSegment:
        """Return the picture resized for the ViT and, when pictures will be drawn, for the VAE (spec 5.2).

        Raises:
            InvalidRequest: one of its kinds, naming the place in the body.
            Overloaded: every reader is busy.
            NobodyWaits: for it any more.
        """
        return self.readers.read(_picture_bytes(part, self.readers.limits.max_bytes, self.fetch), part.param, interest, draws=draws)

    def close(self) -> None:
        """End the reader processes."""
        self.readers.close()


def _picture_bytes(part: PicturePart, max_bytes: int, fetch: Fetch | None) -> bytes:
    scheme, _, rest = part.url.partition(":")
    if scheme.lower() in ("http", "https"):
        if fetch is None:
            message = f"{part.param}: this server does not fetch pictures; send them as data:image/png;base64,…"
            raise UnsupportedParameter(message, part.param)
        return fetch(part.url, part.param, max_bytes)
    media_type, comma, payload = rest.partition(",")
    if scheme.lower() != "data" or not comma or BASE64.search(media_type) is None:
        raise InvalidImage(f"{part.param}: expected a data URI such as data:image/png;base64,…", part.param)
    encoded = _without_decoration(payload)
    if len(encoded) > max_bytes * 4 // 3 + 4:
        raise ImageTooLarge(f"{part.param}: the picture has more than {max_bytes} bytes.", part.param)
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise InvalidImage(f"{part.param}: the data URI is not valid base64.", part.param) from error


def _without_decoration(payload: str) -> bytes:
    """Return base64 as it should have been: without percent-encoding and white space, and padded (WHATWG: Infra, forgiving-base64)."""
    plain = payload.encode("ascii", "replace")
    if b"%" in plain:
        for escaped, byte in ESCAPED.items():
            plain = plain.replace(escaped, byte)
    plain = plain.translate(None, WHITE_SPACE)
    return plain if plain.endswith(b"=") else plain + b"=" * (-len(plain) % 4)
