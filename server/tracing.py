"""Traces, as the rest of the server sees them: a visit at the door, a generation behind it, and what the engine says of its phases.

This class traces nothing and costs nothing; `server.otlp_tracing` sends OpenTelemetry spans, if that is installed and asked for. The
context of a trace is the value of a W3C ``traceparent`` header, so that it can be stored with a request and go on elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from server.messages import StepReport


class Visit:
    """One HTTP request on its way through."""

    def answered(self, route: str, status: int, request_id: str) -> None:
        """Say how it was answered; the last thing that is said of it."""


class Tracing:
    """Where spans go: nowhere."""

    @contextmanager
    def visit(self, method: str, traceparent: str | None) -> Iterator[Visit]:
        """Trace what happens in the block as one HTTP request, a child of the client's span if it named one."""
        yield Visit()

    def traceparent(self) -> str | None:
        """Return the context that what happens now belongs to, to be stored with a request."""
        return None

    def begin(self, request_ids: Sequence[str], model: str, traceparent: str | None = None) -> None:
        """Begin a generation for each request, in the given context or the present one; the engine's reports end it."""

    def observe_step(self, report: StepReport) -> None:
        """Take in one engine step: end the generations of finished requests, with a span for each of their phases."""

    def close(self) -> None:
        """Send what has not been sent."""
