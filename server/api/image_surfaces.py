"""Generations and edits as surfaces: from a body and a stamp to the ask and the pieces of its answer, on any replica the same."""

from __future__ import annotations

from dataclasses import dataclass

from server.api.bad_requests import checked
from server.api.event_stream import failure_event
from server.api.image_schemas import EditRequest, GenerationRequest
from server.api.image_writer import Kind, PictureEventWriter, PictureHeading, PicturesWriter
from server.api.whole_answer import failed_answer
from server.errors import ModelNotFound
from server.serving.picture_links import PictureLinks
from server.serving.surfaces import Reply, Stamp


@dataclass(frozen=True, slots=True)
class ImageSurface:
    """The wire format of ``/v1/images/generations`` or ``/v1/images/edits`` for the model called ``model_name``."""

    kind: Kind
    model_name: str
    links: PictureLinks

    @property
    def name(self) -> str:
        return self.kind

    @property
    def id_prefix(self) -> str:
        return "img_"

    def open(self, body: bytes, stamp: Stamp) -> Reply:
        """Read a body; see `Surface`."""
        request = checked(body, EditRequest) if self.kind == "image_edit" else checked(body, GenerationRequest)
        if request.model not in (None, self.model_name):
            raise ModelNotFound(f"model: this server serves '{self.model_name}' and no other.", "model")
        heading = PictureHeading.of(request, self.kind, stamp.created)
        if request.stream:
            return Reply(request.ask(), PictureEventWriter(heading), failure_event)
        kept = (lambda event: self.links.linked(event, stamp)) if request.response_format == "url" else None
        return Reply(request.ask(), PicturesWriter(heading), failed_answer, kept, is_whole=True)
