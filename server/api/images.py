"""``POST /v1/images/generations`` and ``POST /v1/images/edits``."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.api.arrivals import Doorway, json_body, media_type
from server.api.image_answers import PictureEventOut, PicturesOut
from server.api.image_forms import Form, read_form
from server.api.image_schemas import EditRequest, GenerationRequest
from server.api.image_surfaces import ImageSurface
from server.api.openapi import Operation, operation
from server.errors import InvalidRequest, UnsupportedMediaType


@dataclass(frozen=True, slots=True)
class ImageRoutes:
    """The endpoints for pictures alone."""

    doorway: Doorway
    generations: ImageSurface
    edits: ImageSurface

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        drawn = operation(Operation(GenerationRequest, PicturesOut, PictureEventOut))
        edited = operation(Operation(EditRequest, PicturesOut, PictureEventOut, content_types=("application/json", "multipart/form-data")))
        router.add_api_route("/v1/images/generations", self.generate, methods=["POST"], response_class=Response, openapi_extra=drawn)
        router.add_api_route("/v1/images/edits", self.edit, methods=["POST"], response_class=Response, openapi_extra=edited)
        return router

    async def generate(self, request: Request) -> Response:
        """Draw pictures from words."""
        return await self.doorway.answer(request, self.generations, await json_body(request))

    async def edit(self, request: Request) -> Response:
        """Draw pictures from pictures and words, sent as a form or as JSON.

        Raises:
            UnsupportedMediaType: it is neither.
        """
        match media_type(request):
            case "multipart/form-data":
                return await self._edit_by_form(request, await read_form(request))
            case "application/json":
                return await self.doorway.answer(request, self.edits, await request.body())
            case _:
                raise UnsupportedMediaType("The body must be a form (multipart/form-data) or JSON (application/json).")

    async def _edit_by_form(self, request: Request, form: Form) -> Response:
        try:
            return await self.doorway.answer(request, self.edits, form.body)
        except InvalidRequest as error:
            raise form.named_here(error) from error
