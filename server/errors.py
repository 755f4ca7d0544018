"""Everything the server refuses or fails with, as one tree. The HTTP layer maps the classes to statuses; nobody else knows those.

    PlaitError
    ├── InvalidRequest             what was asked cannot be done; asking again does not help
    │   ├── InvalidValue           a field has a wrong type or is out of its bound
    │   ├── UnknownParameter       no such field; the nearest known one is named
    │   ├── UnsupportedParameter   a known field that this server or this model does not honour
    │   ├── InvalidImage           not a picture this server reads
    │   ├── ImageTooLarge          a picture beyond the bounds
    │   ├── ContextLengthExceeded  prompt and answer do not fit the model
    │   ├── ModelNotFound          the request names another model
    │   ├── RouteNotFound          no such address
    │   ├── StreamNotFound         no such stream, or no longer
    │   ├── FileNotKept            no such file, or no longer
    │   ├── ResponseNotFound       no such response, or no longer
    │   ├── PreviousResponseNotFound  nothing to continue
    │   ├── ItemNotFound           an item named by its id that no stored response has
    │   ├── IdempotencyConflict    the key was used for another request
    │   ├── MethodNotAllowed       the address exists, the method does not
    │   ├── UnsupportedMediaType   the body is not said to be JSON
    │   ├── BodyTooLarge           more bytes than the server takes in
    │   ├── HeadersTooLarge        more headers than the server takes in
    │   ├── RequestTimeout         the request itself came too slowly
    │   └── BadKey                 no key, or none that is known
    ├── EngineUnavailable          loading, restarting or stalled; asking again helps
    ├── Overloaded                 too much in flight; asking again helps
    ├── QuotaExceeded              this tenant has used what it may; waiting helps
    ├── StoreAway                  what is asked is in a store that does not answer; asking again helps
    ├── Cancelled                  accepted, then ended at somebody's wish or for want of a reader
    ├── DeadlineExceeded           not done within the time the request was given
    └── GenerationFailed           accepted, then failed inside

Messages name the field, the value's problem and the bound. They are written by us: no text of a foreign exception and no long piece of
the input ever enters one.
"""

from __future__ import annotations

MAX_MESSAGE_CHARS = 1000
"""Cut for safety: a message is a sentence or two."""


class PlaitError(Exception):
    """The root. ``code`` is the machine-readable name, ``type`` OpenAI's family of it."""

    code: str = "server_error"
    type: str = "server_error"
    is_retryable: bool = False
    retry_after_s: float | None = None
    """When asking again may help, where that is known."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message[:MAX_MESSAGE_CHARS]
        self.param = param


class InvalidRequest(PlaitError):
    """What was asked cannot be done."""

    code = "invalid_request"
    type = "invalid_request_error"


class InvalidValue(InvalidRequest):
    """A field has a wrong type or is out of its bound."""

    code = "invalid_value"


class UnknownParameter(InvalidRequest):
    """A field nobody knows."""

    code = "unknown_parameter"


class UnsupportedParameter(InvalidRequest):
    """A field that exists elsewhere and is not honoured here."""

    code = "unsupported_parameter"


class InvalidImage(InvalidRequest):
    """Bytes that are no picture this server reads."""

    code = "invalid_image"


class ImageTooLarge(InvalidRequest):
    """A picture with too many bytes, pixels or frames, or too long and thin."""

    code = "image_too_large"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer together do not fit the model."""

    code = "context_length_exceeded"


class ModelNotFound(InvalidRequest):
    """The request names a model that is not served here."""

    code = "model_not_found"


class RouteNotFound(InvalidRequest):
    """No such address."""

    code = "not_found"


class StreamNotFound(InvalidRequest):
    """No stream of that id for this client, or no longer."""

    code = "stream_not_found"


class FileNotKept(InvalidRequest):
    """No file of that id for this client, or no longer."""

    code = "file_not_found"


class ResponseNotFound(InvalidRequest):
    """No response of that id for this client, or no longer."""

    code = "response_not_found"


class PreviousResponseNotFound(InvalidRequest):
    """A response that another was to continue, and that is not there, or not done."""

    code = "previous_response_not_found"


class ItemNotFound(InvalidRequest):
    """An item of an answer, named by its id, that no stored response of this client has."""

    code = "item_not_found"


class IdempotencyConflict(InvalidRequest):
    """An idempotency key that was used for another request."""

    code = "idempotency_conflict"


class MethodNotAllowed(InvalidRequest):
    """The address exists, the method does not."""

    code = "method_not_allowed"


class UnsupportedMediaType(InvalidRequest):
    """The body is not said to be JSON."""

    code = "unsupported_media_type"


class BodyTooLarge(InvalidRequest):
    """More bytes in the body than the server takes in."""

    code = "body_too_large"


class HeadersTooLarge(InvalidRequest):
    """More headers than the server takes in."""

    code = "headers_too_large"


class RequestTimeout(InvalidRequest):
    """The request came too slowly to wait for its end."""

    code = "request_timeout"


class BadKey(InvalidRequest):
    """No key where one is needed, or one that nobody holds."""

    code = "invalid_api_key"


class EngineUnavailable(PlaitError):
    """The engine is loading, restarting or stalled."""

    code = "engine_unavailable"
    is_retryable = True


class Overloaded(PlaitError):
    """Too many requests are in flight; about ``retry_after_s`` seconds from now there should be room."""

    code = "overloaded"
    is_retryable = True

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(PlaitError):
    """The request was not done within the time it was given."""

    code = "deadline_exceeded"


class QuotaExceeded(PlaitError):
    """A tenant has used what it may for now; waiting helps."""

    code = "rate_limit_exceeded"
    type = "rate_limit_error"
    is_retryable = True

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreAway(PlaitError):
    """The store does not answer, which keeps ``what`` is asked for."""

    code = "store_unavailable"
    is_retryable = True

    def __init__(self, what: str = "streams") -> None:
        super().__init__(f"The store of {what} does not answer just now. Try again shortly.")


class Cancelled(PlaitError):
    """An answer ended before it was complete because somebody wished it, or nobody read it."""

    code = "cancelled"
    type = "invalid_request_error"


class GenerationFailed(PlaitError):
    """An accepted request failed inside; ``code`` is the engine's word for it."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def error_codes() -> list[str]:
    """Return the code of every class of the tree."""
    classes = [PlaitError]
    for known in classes:  # grows while it is walked
        classes += known.__subclasses__()
    return sorted({known.code for known in classes})
