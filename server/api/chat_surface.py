"""Chat completions as a surface: from a body and a stamp to the ask and the pieces of its answer, on any replica the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from server.api.bad_requests import checked
from server.api.chat_schemas import ChatRequest
from server.api.chat_writer import Heading, write_chunks, write_completion
from server.api.event_stream import DONE, failure_event
from server.api.whole_answer import failed_answer, whole_answer
from server.errors import ModelNotFound
from server.serving.events import Event
from server.serving.picture_links import PictureLinks
from server.serving.surfaces import Piece, Reply, Stamp


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
            metadata=chat.metadata,
        )
        if chat.image is not None and chat.image.response_format == "url":
            return _with_events(self._reply(chat, heading), lambda events: self.links.linked(events, stamp))
        return self._reply(chat, heading)

    def _reply(self, chat: ChatRequest, heading: Heading) -> Reply:
        if not chat.stream:
            return Reply(chat.ask(), lambda events: _whole(events, heading), failed_answer, is_whole=True)
        with_usage = chat.stream_options is not None and chat.stream_options.include_usage
        return Reply(chat.ask(), lambda events: _chunks(events, heading, with_usage=with_usage), failure_event)


def _with_events(reply: Reply, change: Callable[[AsyncIterator[Event]], AsyncIterator[Event]]) -> Reply:
    return replace(reply, write=lambda events: reply.write(change(events)))


async def _whole(events: AsyncIterator[Event], heading: Heading) -> AsyncIterator[Piece]:
    yield whole_answer(await write_completion(events, heading))


async def _chunks(events: AsyncIterator[Event], heading: Heading, *, with_usage: bool) -> AsyncIterator[Piece]:
    async for chunk in write_chunks(events, heading, with_usage=with_usage):
        yield Piece(chunk)
    yield Piece(DONE, is_final=True)
