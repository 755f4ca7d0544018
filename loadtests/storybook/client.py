"""One chat completion over HTTP, and its answer as words and pictures in order."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Json = dict[str, object]

TIMEOUT_S = 600.0
MAX_PANELS = 6
"""Pictures that an answer may hold where the model decides."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: words and pictures in order, and why the answer ended."""

    parts: list[str | Pixels]
    finish_reason: str

    @property
    def pictures(self) -> list[Pixels]:
        return [part for part in self.parts if not isinstance(part, str)]

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was asked before, and the answer: words, perhaps after which a picture came."""

    asked: str
    said: str
    picture: Pixels | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What to send: words, perhaps after a picture; ``modalities`` None leaves the choice to the model."""

    words: str
    picture: Pixels | None = None
    modalities: tuple[str, ...] | None = None
    thinks: bool = False
    seed: int = 0
    earlier: tuple[Exchange, ...] = ()


@dataclass(frozen=True, slots=True)
class Client:
    """Asks a server for its ``model``. ``image_options`` is the ``image`` field of every request, without size, number and seed."""

    http: httpx.AsyncClient
    model: str
    image_options: Json = field(default_factory=dict)

    @classmethod
    async def of_server(cls, http: httpx.AsyncClient, image_options: Json) -> Client:
        """Return a client for the one model the server has.

        Raises:
            httpx.HTTPError: the server could not be reached or refused.
        """
        response = await http.get("/v1/models")
        response.raise_for_status()
        return cls(http, str(_mapping(_sequence(_mapping(response.json())["data"])[0])["id"]), image_options)

    async def ask(self, question: Question) -> Answer:
        """Send a question and wait for the whole answer.

        Raises:
            httpx.HTTPError: the server could not be reached or refused.
        """
        response = await self.http.post("/v1/chat/completions", json=self._body(question))
        response.raise_for_status()
        return read_answer(response.json())

    def _body(self, question: Question) -> Json:
        pictures = [] if question.picture is None else [_picture_part(question.picture)]
        messages = [message for exchange in question.earlier for message in _messages(exchange)]
        messages.append({"role": "user", "content": [*pictures, {"type": "text", "text": question.words}]})
        body: Json = {"model": self.model, "messages": messages, "seed": question.seed, "max_tokens": 300}
        if question.modalities is not None:
            body["modalities"] = list(question.modalities)
        if question.modalities is None or "image" in question.modalities:
            max_images = MAX_PANELS if question.modalities is None else 1
            body["image"] = {"seed": question.seed, "max_images": max_images, **self.image_options}
        if question.thinks:
            body["think"] = True
        return body


def _messages(exchange: Exchange) -> list[Json]:
    pictures = [] if exchange.picture is None else [_picture_part(exchange.picture)]
    answer: list[Json] = [{"type": "text", "text": exchange.said}, *pictures]
    return [{"role": "user", "content": exchange.asked}, {"role": "assistant", "content": answer}]


def _picture_part(picture: Pixels) -> Json:
    return {"type": "image_url", "image_url": {"url": data_uri(picture)}}


def open_http(url: str) -> httpx.AsyncClient:
    """Return an HTTP client without idle connections: a server may close one just as it is used again, and nothing here is asked twice."""
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=httpx.Limits(max_keepalive_connections=0))


def read_answer(body: object) -> Answer:
    """Read a chat completion: ``content_parts`` gives the order, its pictures refer to ``images`` by index."""
    choice = _mapping(_sequence(_mapping(body)["choices"])[0])
    message = _mapping(choice["message"])
    images = [_picture(_mapping(_mapping(image)["image_url"])["url"]) for image in _sequence(message.get("images") or [])]
    parts: list[str | Pixels] = []
    for entry in _sequence(message.get("content_parts") or []):
        part = _mapping(entry)
        parts.append(str(part["text"]) if part["type"] == "text" else images[int(str(part["image_index"]))])
    if not parts:
        parts = [str(message.get("content") or ""), *images]
    return Answer(parts=parts, finish_reason=str(choice["finish_reason"]))


def data_uri(picture: Pixels) -> str:
    """Encode a picture as a PNG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _picture(url: object) -> Pixels:
    encoded = str(url).partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))


def _mapping(value: object) -> Json:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object in the answer, found {type(value).__name__}")
    return value


def _sequence(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list in the answer, found {type(value).__name__}")
    return value
