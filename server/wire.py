"""The messages of `server.messages` as socket frames and back: msgpack with a schema, never pickle.

A message is two frames, its kind and its payload. Decoding checks every field's type; what does not fit raises `WireError`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from server.messages import (
    Abort,
    EngineFailed,
    EngineReady,
    ImageParams,
    ImageSegment,
    LoadProgress,
    OutputMode,
    Picture,
    Request,
    SamplingParams,
    Segment,
    Shutdown,
    StepReport,
    TextSegment,
)

ToEngine = Request | Abort | Shutdown
FromEngine = EngineReady | LoadProgress | EngineFailed | StepReport
Frames = list[bytes]


class WireError(Exception):
    """Frames that are not a message."""


class _SegmentFrame(msgspec.Struct, array_like=True, frozen=True):
    """One of two kinds of segment; a plain dataclass cannot carry a tag, so the other one is None."""

    text: TextSegment | None
    image: ImageSegment | None


class _RequestFrame(msgspec.Struct, array_like=True, frozen=True):
    """A `Request` with its segments told apart."""

    request_id: str
    segments: list[_SegmentFrame]
    mode: OutputMode
    sampling: SamplingParams
    image: ImageParams
    generated_text_is_thought: bool
    wants_progress: bool
    tenant: str
    user: str
    weight: float
    priority: int
    deadline_s: float | None
    canon: list[int | Picture]


_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(_RequestFrame)
_abort_decoder = msgspec.msgpack.Decoder(Abort)
_shutdown_decoder = msgspec.msgpack.Decoder(Shutdown)
_ready_decoder = msgspec.msgpack.Decoder(EngineReady)
_progress_decoder = msgspec.msgpack.Decoder(LoadProgress)
_failed_decoder = msgspec.msgpack.Decoder(EngineFailed)
_report_decoder = msgspec.msgpack.Decoder(StepReport)


def encode_to_engine(message: ToEngine) -> Frames:
    """Return the frames of a message for the engine."""
    match message:
        case Request():
            return [b"request", _encoder.encode(_request_frame(message))]
        case Abort():
            return [b"abort", _encoder.encode(message)]
        case Shutdown():
            return [b"shutdown", _encoder.encode(message)]


def decode_to_engine(frames: Sequence[bytes]) -> ToEngine:
    """Read a message for the engine.

    Raises:
        WireError: unknown kind, or a payload of the wrong shape.
    """
    kind, payload = _two(frames)
    try:
        match kind:
            case b"request":
                return _request(_request_decoder.decode(payload))
            case b"abort":
                return _abort_decoder.decode(payload)
            case b"shutdown":
                return _shutdown_decoder.decode(payload)
            case _:
                raise WireError(f"unknown kind of message {kind!r}")
    except msgspec.DecodeError as error:
        raise WireError(f"malformed {kind!r} message: {error}") from error


def encode_from_engine(message: FromEngine) -> Frames:
    """Return the frames of a message from the engine."""
    match message:
        case EngineReady():
            kind = b"ready"
        case LoadProgress():
            kind = b"load"
        case EngineFailed():
            kind = b"failed"
        case StepReport():
            kind = b"report"
    return [kind, _encoder.encode(message)]


def decode_from_engine(frames: Sequence[bytes]) -> FromEngine:
    """Read a message from the engine.

    Raises:
        WireError: unknown kind, or a payload of the wrong shape.
    """
    kind, payload = _two(frames)
    try:
        match kind:
            case b"report":
                return _report_decoder.decode(payload)
            case b"ready":
                return _ready_decoder.decode(payload)
            case b"load":
                return _progress_decoder.decode(payload)
            case b"failed":
                return _failed_decoder.decode(payload)
            case _:
                raise WireError(f"unknown kind of message {kind!r}")
    except msgspec.DecodeError as error:
        raise WireError(f"malformed {kind!r} message: {error}") from error


def _two(frames: Sequence[bytes]) -> tuple[bytes, bytes]:
    if len(frames) != 2:
        raise WireError(f"expected 2 frames, got {len(frames)}")
    return frames[0], frames[1]


def _request_frame(request: Request) -> _RequestFrame:
    return _RequestFrame(
        request_id=request.request_id,
        segments=[_segment_frame(segment) for segment in request.segments],
        mode=request.mode,
        sampling=request.sampling,
        image=request.image,
        generated_text_is_thought=request.generated_text_is_thought,
        wants_progress=request.wants_progress,
        tenant=request.tenant,
        user=request.user,
        weight=request.weight,
        priority=request.priority,
        deadline_s=request.deadline_s,
        canon=request.canon,
    )


def _segment_frame(segment: Segment) -> _SegmentFrame:
    match segment:
        case TextSegment():
            return _SegmentFrame(segment, None)
        case ImageSegment():
            return _SegmentFrame(None, segment)


def _request(frame: _RequestFrame) -> Request:
    return Request(
        request_id=frame.request_id,
        segments=[_segment(segment) for segment in frame.segments],
        mode=frame.mode,
        sampling=frame.sampling,
        image=frame.image,
        generated_text_is_thought=frame.generated_text_is_thought,
        wants_progress=frame.wants_progress,
        tenant=frame.tenant,
        user=frame.user,
        weight=frame.weight,
        priority=frame.priority,
        deadline_s=frame.deadline_s,
        canon=frame.canon,
    )


def _segment(frame: _SegmentFrame) -> Segment:
    segment = frame.text or frame.image
    if segment is None:
        raise WireError("a segment that is neither text nor picture")
    return segment
