"""Pictures kept in the store under addresses, so that answers need not carry their bytes, and read back from there when they are sent in.

What is kept is the picture with whose it is and a random number; its id is the hash of all that, so that nobody can guess it, not even
one who has the picture.
"""

from __future__ import annotations

import base64
import re
import secrets
import time
from dataclasses import replace

import msgspec

from server.errors import InvalidImage
from server.serving.asks import Ask, Message, PicturePart, TextPart
from server.serving.events import PictureEvent
from server.serving.surfaces import Stamp
from server.store.store import PictureStore, StoreUnavailable

ID_PREFIX = "file-"
ADDRESS = re.compile(r"https?://[^/?#]+/v1/files/(?P<named>file-[0-9a-f]{64})/content|/v1/files/(?P<bare>.+)/content", re.DOTALL)
"""A picture of ours, whatever name the server had when it gave the address; without any server's name, nobody else's."""

NONCE_BYTES = 16


class KeptPicture(msgspec.Struct, array_like=True, frozen=True):
    """A picture in the store; ``created`` in Unix seconds."""

    tenant: str
    media_type: str
    created: int
    nonce: bytes
    content: bytes


def address_of(file_id: str, base_url: str = "") -> str:
    """Return where a picture can be had; without a base, as the path alone."""
    return f"{base_url}/v1/files/{file_id}/content"


class PictureLinks:
    """Keeps pictures and finds them again, here or on any replica that shares the store."""

    def __init__(self, store: PictureStore) -> None:
        self._store = store

    async def linked(self, event: PictureEvent, stamp: Stamp) -> PictureEvent:
        """Keep a picture and return it with its address; while the store is away, it goes with the answer."""
        media_type, nonce = event.output_format.media_type, secrets.token_bytes(NONCE_BYTES)
        kept = KeptPicture(stamp.tenant, media_type, int(time.time()), nonce, event.encoded)
        try:
            key = await self._store.put_picture(msgspec.msgpack.encode(kept))
        except StoreUnavailable:
            return event
        return replace(event, address=address_of(ID_PREFIX + key, stamp.base_url))

    async def find(self, file_id: str, tenant: str) -> KeptPicture | None:
        """Return a picture of ``tenant``; None when there is none, or no longer.

        Raises:
            StoreUnavailable
        """
        stored = await self._store.get_picture(file_id.removeprefix(ID_PREFIX))
        if stored is None or not file_id.startswith(ID_PREFIX):
            return None
        try:
            kept = msgspec.msgpack.decode(stored, type=KeptPicture)
        except msgspec.DecodeError:
            return None
        return kept if kept.tenant == tenant else None

    async def delete(self, file_id: str) -> None:
        """Forget a picture that was found.

        Raises:
            StoreUnavailable
        """
        await self._store.delete_picture(file_id.removeprefix(ID_PREFIX))

    async def resolved(self, ask: Ask, tenant: str) -> Ask:
        """Return an ask with the pictures it names by our own addresses put in.

        Raises:
            InvalidImage: there is no such picture of ``tenant``.
            StoreUnavailable
        """
        return replace(ask, messages=[await self._resolved_message(message, tenant) for message in ask.messages])

    async def _resolved_message(self, message: Message, tenant: str) -> Message:
        parts: list[TextPart | PicturePart] = []
        for part in message.parts:
            parts.append(await self._resolved_part(part, tenant) if isinstance(part, PicturePart) else part)
        return replace(message, parts=parts)

    async def _resolved_part(self, part: PicturePart, tenant: str) -> PicturePart:
        named = ADDRESS.fullmatch(part.url)
        if named is None:
            return part
        kept = await self.find(named["named"] or named["bare"], tenant)
        if kept is None:
            raise InvalidImage(f"{part.param}: there is no such picture, or it is no longer kept.", part.param)
        return replace(part, url=f"data:{kept.media_type};base64,{base64.b64encode(kept.content).decode('ascii')}")
