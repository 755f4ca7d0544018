"""Errors as HTTP: which status each has, and OpenAI's body for them. The only place that knows both."""

from __future__ import annotations

import json
import math

from starlette.responses import Response

from server.errors import (
    BadKey,
    BodyTooLarge,
    Cancelled,
    DeadlineExceeded,
    EngineUnavailable,
    FileNotKept,
    GenerationFailed,
    HeadersTooLarge,
    IdempotencyConflict,
    InvalidRequest,
    ItemNotFound,
    MethodNotAllowed,
    ModelNotFound,
    Overloaded,
    PlaitError,
    QuotaExceeded,
    RequestTimeout,
    ResponseNotFound,
    RouteNotFound,
    StoreAway,
    StreamNotFound,
    UnsupportedMediaType,
)

RETRY_AFTER_S = 2
"""What a client is told to wait before it asks again, where nothing better is known."""

STATUS_BY_CODE = {"context_length_exceeded": 400, "form_too_complex": 400}
"""Errors that only the engine could find, by its word for them."""


def status_of(error: PlaitError) -> int:
    """Return the HTTP status of an error."""
    match error:
        case BadKey():
            return 401
        case ModelNotFound() | RouteNotFound() | StreamNotFound() | ResponseNotFound() | ItemNotFound() | FileNotKept():
            return 404
        case MethodNotAllowed():
            return 405
        case IdempotencyConflict() | Cancelled():
            return 409
        case RequestTimeout():
            return 408
        case BodyTooLarge():
            return 413
        case HeadersTooLarge():
            return 431
        case UnsupportedMediaType():
            return 415
        case InvalidRequest():
            return 400
        case QuotaExceeded():
            return 429
        case EngineUnavailable() | Overloaded() | StoreAway():
            return 503
        case DeadlineExceeded():
            return 504
        case GenerationFailed():
            return STATUS_BY_CODE.get(error.code, 500)
        case _:
            return 500


def error_json(error: PlaitError) -> str:
    """Return OpenAI's error object."""
    return json.dumps({"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}})


def retry_headers(wait_s: float, *, is_known: bool = False) -> dict[str, str]:
    """Return what tells a client when to ask again; OpenAI's own read the milliseconds first.

    A time that ``is_known`` must have passed; of one that is expected the nearest second is the truest.
    """
    seconds = math.ceil(wait_s) if is_known else max(1, round(wait_s))
    return {"retry-after": str(seconds), "retry-after-ms": str(math.ceil(1000 * wait_s))}


def error_response(error: PlaitError) -> Response:
    """Return the whole answer to a request that failed."""
    headers = {"x-should-retry": "true" if error.is_retryable else "false"}
    if error.is_retryable:
        wait_s = RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
        headers |= retry_headers(wait_s, is_known=isinstance(error, QuotaExceeded))
    if isinstance(error, BadKey):
        headers["www-authenticate"] = "Bearer"
    return Response(error_json(error), status_of(error), headers, "application/json")
