"""``/v1/files/{id}``: pictures of answers that were asked for as addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from server.api.gate import tenant_of
from server.api.heads import answer_heads
from server.errors import FileNotKept, StoreAway
from server.serving.picture_links import KeptPicture, PictureLinks
from server.store.store import StoreUnavailable

HEADERS = {"cache-control": "private, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
"""An id names its bytes for ever; only whose it is may see them."""


class FileOut(BaseModel):
    """``expires_at``: from then on the file is gone; in a store that is full, it may be earlier."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["vision"] = "vision"
    status: Literal["processed"] = "processed"


class DeletedFile(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


@dataclass(frozen=True, slots=True)
class FileRoutes:
    """Kept pictures. ``kept_s``: for how many seconds."""

    links: PictureLinks
    kept_s: float

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/v1/files/{file_id}", self.describe, methods=["GET"])
        router.add_api_route("/v1/files/{file_id}", self.delete, methods=["DELETE"])
        router.add_api_route("/v1/files/{file_id}/content", self.content, methods=["GET"], response_class=Response)
        answer_heads(router)
        return router

    async def describe(self, request: Request, file_id: str) -> FileOut:
        """Describe a picture."""
        kept = await self._found(request, file_id)
        filename = f"{file_id}.{kept.media_type.partition('/')[2]}"
        expires_at = kept.created + int(self.kept_s)
        return FileOut(id=file_id, bytes=len(kept.content), created_at=kept.created, expires_at=expires_at, filename=filename)

    async def content(self, request: Request, file_id: str) -> Response:
        """Return a picture's bytes."""
        kept = await self._found(request, file_id)
        return Response(kept.content, 200, HEADERS, kept.media_type)

    async def delete(self, request: Request, file_id: str) -> DeletedFile:
        """Forget a picture."""
        await self._found(request, file_id)
        try:
            await self.links.delete(file_id)
        except StoreUnavailable as error:
            raise StoreAway("pictures") from error
        return DeletedFile(id=file_id)

    async def _found(self, request: Request, file_id: str) -> KeptPicture:
        try:
            kept = await self.links.find(file_id, tenant_of(request).name)
        except StoreUnavailable as error:
            raise StoreAway("pictures") from error
        if kept is None:
            raise FileNotKept(f"There is no file '{file_id[:80]}', or it is no longer kept.")
        return kept
