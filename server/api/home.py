"""``GET /`` and ``/static/…``: the page to talk to the server with. A few files, read once, sent with headers that let nothing else in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.errors import RouteNotFound

FILES = Path(__file__).with_name("static")
INDEX = "index.html"

READING = ["GET", "HEAD"]

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is sent."""

    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> PageFile:
        content = path.read_bytes()
        return cls(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def answer(self, request: Request) -> Response:
        """Return the file, or nothing new where the browser has it."""
        headers = {**SECURITY_HEADERS, "etag": self.etag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


@dataclass(frozen=True, slots=True)
class HomeRoutes:
    """The page. A name that is not one of its files is not looked for on the disk."""

    files: Mapping[str, PageFile]

    @classmethod
    def of_this_package(cls) -> HomeRoutes:
        """Read the page that is shipped with the server."""
        return cls({path.name: PageFile.read(path) for path in FILES.iterdir() if path.suffix in MEDIA_TYPES})

    @property
    def paths(self) -> list[str]:
        """The addresses of the page: open without a key, for they hold nothing but the page."""
        return ["/", *(f"/static/{name}" for name in self.files)]

    def router(self) -> APIRouter:
        """Return the routes, which are not part of the API's schema."""
        router = APIRouter(include_in_schema=False)
        router.add_api_route("/", self.home, methods=READING)
        router.add_api_route("/static/{name}", self.static, methods=READING)
        return router

    async def home(self, request: Request) -> Response:
        """Send the page."""
        return self.files[INDEX].answer(request)

    async def static(self, request: Request, name: str) -> Response:
        """Send one file of the page."""
        file = self.files.get(name)
        if file is None:
            raise RouteNotFound("The page has no such file.")
        return file.answer(request)
