"""Chat completions as a surface: from a body and a stamp to the ask and the pieces of its answer, on any replica the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from server.api.bad_requests import checked
from server.api.chat_schemas import ChatRequest
from server.api.chat_writer import ChunkWriter, CompletionWriter, Heading
from server.api.event_stream import failure_event
from server.api.whole_answer import failed_answer
from server.errors import ModelNotFound
from server.serving.events import PictureEvent
from server.serving.picture_links import PictureLinks
from server.serving.surfaces import Reply, Stamp


@dataclass(frozen=True, slots=True)
class ChatSurface:
    """The wire format of ``/v1/chat/completions`` for the model called ``model_name``."""

    model_name: str
    links: PictureLinks

    @property
    def name(self) -> str:
        return "chat"

    @property
    def id_prefix(self) -> str:
        return "chatcmpl-"

    def open(self, body: bytes, stamp: Stamp) -> Reply:
        """Read a body; see `Surface`."""
        chat = checked(body, ChatRequest)
        if chat.model not in (None, self.model_name):
            raise ModelNotFound(f"model: this server serves '{self.model_name}' and no other.", "model")
        heading = Heading(
            completion_id=stamp.stream_id,
            created=stamp.created,
            model=self.model_name,
            num_choices=chat.n,
            with_logprobs=chat.logprobs,
            with_usage=chat.stream_options is not None and chat.stream_options.include_usage,
            metadata=chat.metadata,
        )
        kept = self._keeper(chat, stamp)
        if not chat.stream:
            return Reply(chat.ask(), CompletionWriter(heading), failed_answer, kept, is_whole=True)
        return Reply(chat.ask(), ChunkWriter(heading), failure_event, kept)

    def _keeper(self, chat: ChatRequest, stamp: Stamp) -> Callable[[PictureEvent], Awaitable[PictureEvent]] | None:
        if chat.image is None or chat.image.response_format != "url":
            return None
        return lambda event: self.links.linked(event, stamp)
