"""Talks to any OpenAI-compatible server: models, streamed chats, pictures. Knows the wire format and nothing else of a server.

What comes back is read into types that keep only what a command shows; fields that a server leaves out have harmless values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import httpx
import msgspec

from server.cli.command import ExitStatus, Refused

CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 600.0
"""A picture may take long to draw, and not every server pings meanwhile."""

Body = Mapping[str, object]
DecodedT = TypeVar("DecodedT")


class Url(msgspec.Struct, frozen=True):
    url: str


class ChatImage(msgspec.Struct, frozen=True):
    image_url: Url
    index: int = 0


class Delta(msgspec.Struct, frozen=True):
    """What a chunk adds to one answer."""

    content: str | None = None
    reasoning_content: str | None = None
    images: list[ChatImage] = []


class ChunkChoice(msgspec.Struct, frozen=True):
    delta: Delta = Delta()
    index: int = 0
    finish_reason: str | None = None


class ImageProgress(msgspec.Struct, frozen=True):
    """How far a picture is; only Plait says so."""

    index: int
    step: int
    num_steps: int


class TokenUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ErrorEntry(msgspec.Struct, frozen=True):
    """An error in OpenAI's shape."""

    message: str = "no message"
    code: str | int | None = None


class Chunk(msgspec.Struct, frozen=True):
    """One event of a streamed chat."""

    choices: list[ChunkChoice] = []
    usage: TokenUsage | None = None
    image_progress: ImageProgress | None = None
    error: ErrorEntry | None = None


class PictureEvent(msgspec.Struct, frozen=True):
    """One event of a streamed picture."""

    type: str = ""
    b64_json: str = ""
    index: int = 0
    output_format: str = "png"
    partial_image_index: int = 0
    error: ErrorEntry | None = None


class PictureEntry(msgspec.Struct, frozen=True):
    b64_json: str | None = None
    url: str | None = None


class Pictures(msgspec.Struct, frozen=True):
    """An answer of the Images API that did not stream."""

    data: list[PictureEntry]


class ImageLimits(msgspec.Struct, frozen=True):
    default_size: str = ""
    offered_sizes: list[str] = []
    max_side: int = 0


class ModelCard(msgspec.Struct, frozen=True):
    """An entry of ``/v1/models``; other servers say less than ours."""

    id: str
    family: str = ""
    input_modalities: list[str] = []
    output_modalities: list[str] = []
    max_model_len: int | None = None
    image: ImageLimits | None = None


class ModelList(msgspec.Struct, frozen=True):
    data: list[ModelCard]


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorEntry


class OpenAiClient:
    """A client of the server at ``url``, with or without a leading ``http://`` and a trailing ``/v1``. Use it as a context manager.

    Raises:
        Refused: that is not an address, or a key that no header can hold.
    """

    def __init__(self, url: str, key: str | None) -> None:
        whole = url if "://" in url else f"http://{url}"
        self.url = whole.rstrip("/").removesuffix("/v1")
        timeout = httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        try:
            self._http = httpx.Client(base_url=self.url, headers=key_headers(key), timeout=timeout, trust_env=False)
        except httpx.InvalidURL as error:
            raise Refused(f"--url {url} is not an address: {error}") from error

    def __enter__(self) -> OpenAiClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def models(self) -> list[ModelCard]:
        """Return what the server serves."""
        with self._speaking():
            return decode(_whole(self._http.get("/v1/models")), ModelList).data

    def chat(self, body: Body) -> Iterator[Chunk]:
        """Stream a chat; ends with the stream.

        Raises:
            Refused: the server refuses, fails on the way, or cannot be reached.
        """
        for payload in self._stream("/v1/chat/completions", body):
            chunk = decode(payload, Chunk)
            if chunk.error is not None:
                raise Refused(f"the answer failed: {chunk.error.message}", ExitStatus.FAILED)
            yield chunk

    def pictures(self, path: str, body: Body) -> Iterator[PictureEvent]:
        """Stream pictures from ``/v1/images/…``. Raises as `chat`."""
        for payload in self._stream(path, body):
            event = decode(payload, PictureEvent)
            if event.error is not None:
                raise Refused(f"the picture failed: {event.error.message}", ExitStatus.FAILED)
            yield event

    def whole_pictures(self, path: str, body: Body) -> Pictures:
        """Ask for pictures without a stream, which not every server has. Raises as `chat`."""
        with self._speaking():
            return decode(_whole(self._http.post(path, json=body)), Pictures)

    def _stream(self, path: str, body: Body) -> Iterator[bytes]:
        with self._speaking(), self._http.stream("POST", path, json=body) as response:
            if response.is_error:
                response.read()
                _whole(response)
            yield from payloads(response.iter_lines())

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Refused(f"{self.url} cannot be reached: {error}; is a server running there?", ExitStatus.FAILED) from error


def key_headers(key: str | None) -> dict[str, str]:
    """Return the headers that send an API key.

    Raises:
        Refused: it has characters that no header can hold, such as a line break; it is not shown.
    """
    if not key:
        return {}
    if not (key.isascii() and key.isprintable()):
        raise Refused("the API key (--key, PLAIT_API_KEY or OPENAI_API_KEY) has characters that a key cannot have")
    return {"authorization": f"Bearer {key}"}


def payloads(lines: Iterator[str]) -> Iterator[bytes]:
    """Yield the data of each server-sent event, up to ``[DONE]``. Every server of this kind puts it on one line."""
    for line in lines:
        field, _, value = line.partition(":")
        if field != "data":
            continue
        value = value.removeprefix(" ")
        if value == "[DONE]":
            return
        yield value.encode("utf-8")


def decode(payload: bytes, kind: type[DecodedT]) -> DecodedT:
    """Read one JSON object. Raises `Refused` when it is not what an OpenAI-compatible server says."""
    try:
        return msgspec.json.decode(payload, type=kind)
    except msgspec.MsgspecError as error:
        raise Refused(f"the server's answer is not in OpenAI's format: {error}", ExitStatus.FAILED) from error


def error_message(status: int, body: bytes) -> str:
    """Return what a refusal says, in its own words if it has OpenAI's shape."""
    try:
        return msgspec.json.decode(body, type=ErrorBody).error.message
    except msgspec.MsgspecError:
        return f"status {status}"


def _whole(response: httpx.Response) -> bytes:
    if response.is_error:
        raise Refused(f"the server refused: {error_message(response.status_code, response.content)}", ExitStatus.FAILED)
    return response.content
