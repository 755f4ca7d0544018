"""The way in for every surface: from an HTTP request to a stream and a reader of it.

Headers read here: ``Idempotency-Key``; ``X-Request-Timeout``, the seconds after which the client needs no answer any more; and
``X-Plait-Resumable: true``, by which a client says that it comes back for an answer it lost sight of; ``X-Plait-Event-Ids: false``, by
which it says that it reads nothing but ``data:``. Headers given: ``x-stream-id``, for ``GET /v1/streams/{id}``; ``x-ratelimit-*`` where
the key has bounds; and ``x-plait-durability: live`` while the store is away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from server.api.disconnects import CLIENT_GONE, unless_gone
from server.api.event_stream import EventStream
from server.api.gate import tenant_of
from server.api.middleware import arrival_time
from server.api.whole_answer import whole_response
from server.errors import InvalidValue, UnsupportedMediaType
from server.serving.accepting import Acceptance, Arrival
from server.serving.quotas import Standing
from server.serving.reading import Reading
from server.serving.surfaces import Surface

KEY = re.compile(r"[\x21-\x7e]{1,255}")
"""What an idempotency key may look like."""

SECONDS = re.compile(r"[0-9]{1,5}(\.[0-9]{1,3})?")
MAX_DEADLINE_S = 86_400

TRUE = frozenset({"1", "true", "yes"})
FALSE = frozenset({"0", "false", "no"})


@dataclass(frozen=True, slots=True)
class Doorway:
    """Takes requests in and sends answers out. ``public_url`` is how clients reach this server, where their Host header does not say."""

    acceptance: Acceptance
    keep_alive_s: float
    public_url: str | None = None

    async def answer(self, request: Request, surface: Surface, body: bytes) -> Response:
        """Answer a request whole or as a stream, as its ``body`` says."""
        reading = await self.accept(request, surface, body)
        if reading is None:
            return Response(status_code=CLIENT_GONE)
        headers = stream_headers(reading)
        if reading.is_whole:
            return await whole_response(reading, headers, request)
        return EventStream(reading, headers, self.keep_alive_s, has_ids=wants_ids(request))

    async def accept(self, request: Request, surface: Surface, body: bytes, *, is_background: bool = False) -> Reading | None:
        """Accept a request; None when its client has gone meanwhile.

        Raises:
            PlaitError: it is refused.
        """
        arrival = Arrival(
            surface=surface,
            body=body,
            tenant=tenant_of(request),
            base_url=self.public_url or str(request.base_url).rstrip("/"),
            key=idempotency_key(request),
            is_resumable=request.headers.get("x-plait-resumable", "").lower() in TRUE,
            is_background=is_background,
            deadline_s=deadline_s(request.headers.get("x-request-timeout")),
            arrived=arrival_time(request),
        )
        return await unless_gone(self.acceptance.accept(arrival), request.receive)


def wants_ids(request: Request) -> bool:
    """Return whether a stream's events shall have ids: programs that read nothing but ``data:`` say that they shall not."""
    return request.headers.get("x-plait-event-ids", "").lower() not in FALSE


async def json_body(request: Request) -> bytes:
    """Return the body of a request that is said to be JSON.

    Raises:
        UnsupportedMediaType: it is said to be something else.
    """
    if media_type(request) != "application/json":
        raise UnsupportedMediaType("The body must be JSON, with the header Content-Type: application/json.")
    return await request.body()


def media_type(request: Request) -> str:
    """Return what the body is said to be, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def idempotency_key(request: Request) -> str | None:
    """Return the client's key.

    Raises:
        InvalidValue: it has a form no key has.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and KEY.fullmatch(key) is None:
        raise InvalidValue("Idempotency-Key: expected 1 to 255 visible ASCII characters.", "Idempotency-Key")
    return key


def deadline_s(given: str | None) -> float | None:
    """Return how many seconds the client waits for the end of its answer, from its ``X-Request-Timeout``; None when it does not say.

    Raises:
        InvalidValue: it is no number of seconds.
    """
    if given is None:
        return None
    if SECONDS.fullmatch(given) is None or not 0 < float(given) <= MAX_DEADLINE_S:
        raise InvalidValue(f"X-Request-Timeout: expected seconds, more than 0 and at most {MAX_DEADLINE_S}.", "X-Request-Timeout")
    return float(given)


def stream_headers(reading: Reading) -> dict[str, str]:
    """Return what every answer says about its stream."""
    headers = {"x-stream-id": reading.stream_id}
    if reading.is_live_only:
        headers["x-plait-durability"] = "live"
    if reading.account is not None:
        headers |= _limit_headers("requests", reading.account.requests) | _limit_headers("tokens", reading.account.tokens)
    return headers


def _limit_headers(kind: str, standing: Standing | None) -> dict[str, str]:
    """Return OpenAI's headers for one bound of the tenant; nothing where there is none."""
    if standing is None:
        return {}
    values = {"limit": str(standing.limit), "remaining": str(standing.remaining), "reset": f"{standing.reset_s:.3f}s"}
    return {f"x-ratelimit-{name}-{kind}": value for name, value in values.items()}
