"""Responses as a surface: from an envelope and a stamp to the ask and the pieces of its answer, on any replica the same.

The envelope holds the client's body and, so that nothing else is needed to begin again, the history its ``previous_response_id`` stood
for. Both kinds of answer are kept: events under their names, or the whole response as one piece.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from server.api.bad_requests import fitted, parsed
from server.api.image_answers import QualityOut
from server.api.response_answers import ErrorOut, ReasoningOptionsOut, ResponseOut, TextOptionsOut
from server.api.response_items import InputItem, Items
from server.api.response_schemas import ResponseRequest
from server.api.response_tools import shown_tool
from server.api.response_writer import ResponseDraft, ResponseEventWriter, ResponseHeading, ResponseWriter
from server.api.whole_answer import failed_answer
from server.api.wire_object import WireObject
from server.errors import Cancelled, ModelNotFound, PlaitError
from server.messages import SamplingParams
from server.serving.surfaces import Piece, Reply, Stamp

HISTORY, REQUEST = "history", "request"


class History(WireObject):
    """What was said in earlier responses."""

    history: Items


def envelope(body: bytes, history: bytes) -> bytes:
    """Put a checked body and a list of items, both JSON, into one."""
    return b'{"' + HISTORY.encode() + b'": ' + history + b', "' + REQUEST.encode() + b'": ' + body + b"}"


@dataclass(frozen=True, slots=True)
class ResponseSurface:
    """The wire format of ``/v1/responses`` for the model called ``model_name``."""

    model_name: str

    @property
    def name(self) -> str:
        return "response"

    @property
    def id_prefix(self) -> str:
        return "resp_"

    def open(self, body: bytes, stamp: Stamp) -> Reply:
        """Read an envelope; see `Surface`."""
        value = parsed(body)
        assert isinstance(value, dict), "the route wraps every body"
        request = fitted(value[REQUEST], ResponseRequest)
        history = items_of(value[HISTORY])
        self.check_model(request.model)
        heading = heading_of(request, stamp.stream_id, stamp.created)
        draft = ResponseDraft(heading)
        if not request.stream:
            return Reply(request.ask(history), ResponseWriter(draft), failed_answer, is_whole=True)
        return Reply(request.ask(history), ResponseEventWriter(draft), lambda error: _failure(error, draft, heading))

    def check_model(self, name: str) -> None:
        """See that a request names the model that is served.

        Raises:
            ModelNotFound: it names another.
        """
        if name != self.model_name:
            raise ModelNotFound(f"model: this server serves '{self.model_name}' and no other.", "model")


def items_of(history: object) -> list[InputItem]:
    """Return a parsed list of items as what it stands for."""
    return fitted({HISTORY: history}, History).history


def heading_of(request: ResponseRequest, response_id: str, created: int) -> ResponseHeading:
    """Return the response before its answer, and what is shown of pictures on their way."""
    tool = request.drawing_tool
    quality: QualityOut | None = None if tool is None or tool.quality is None or tool.quality == "auto" else tool.quality
    size = "auto" if tool is None or tool.size is None else tool.size
    return ResponseHeading(_begun(request, response_id, created), size, quality)


def _begun(request: ResponseRequest, response_id: str, created: int) -> ResponseOut:
    choice = request.tool_choice or "auto"
    reasoning = request.reasoning
    return ResponseOut(
        id=response_id,
        created_at=created,
        status="in_progress",
        background=request.background,
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        model=request.model,
        parallel_tool_calls=True if request.parallel_tool_calls is None else request.parallel_tool_calls,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=request.prompt_cache_key,
        reasoning=ReasoningOptionsOut() if reasoning is None else ReasoningOptionsOut(effort=reasoning.effort, summary=reasoning.summary),
        safety_identifier=request.safety_identifier,
        store=request.store,
        temperature=SamplingParams().temperature if request.temperature is None else request.temperature,
        text=_text_options(request),
        tool_choice=choice if isinstance(choice, str) else choice.model_dump(mode="json"),
        tools=[shown_tool(tool) for tool in request.tools or []],
        top_logprobs=request.top_logprobs or 0,
        top_p=SamplingParams().top_p if request.top_p is None else request.top_p,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        user=request.user,
        metadata=request.metadata or {},
    )


def _text_options(request: ResponseRequest) -> TextOptionsOut:
    options = request.text
    plain: dict[str, JsonValue] = {"type": "text"}
    if options is None:
        return TextOptionsOut(format=plain)
    shown = plain if options.format is None else options.format.model_dump(mode="json", exclude_unset=True, by_alias=True)
    return TextOptionsOut(format=shown, verbosity=options.verbosity or "medium")


def ended_early(error_code: str, message: str, response: ResponseOut) -> ResponseOut:
    """Return ``response`` as one that was cancelled or has failed."""
    if error_code == Cancelled.code:
        return response.model_copy(update={"status": "cancelled"})
    return response.model_copy(update={"status": "failed", "error": ErrorOut(code="server_error", message=message)})


def _failure(error: PlaitError, draft: ResponseDraft, heading: ResponseHeading) -> Piece:
    event = draft.fail(ended_early(error.code, error.message, heading.response))
    return Piece(event.model_dump_json(), event.type, is_final=True)
