"""What probes and scrapers ask: alive, ready, version; and metrics, which may live on a port of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from server.api.heads import answer_heads
from server.metrics import CONTENT_TYPE, FrontState, Metrics
from server.serving.engine_client import EngineClient, EnginePhase


class Alive(BaseModel):
    status: str = "alive"


class Readiness(BaseModel):
    """``reasons`` say why the server is not ready; ``load_percent`` is there while the model loads."""

    status: str
    reasons: list[str]
    load_percent: float | None = None
    in_flight: int


class Version(BaseModel):
    version: str


@dataclass(frozen=True, slots=True)
class HealthRoutes:
    """Probes over one engine. ``stall_after_s``: an engine with work that reports nothing for so long is not ready."""

    engine: EngineClient
    version: str
    stall_after_s: float
    is_draining: Callable[[], bool]

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/livez", self.live, methods=["GET"])
        router.add_api_route("/readyz", self.ready, methods=["GET"], response_model=Readiness)
        router.add_api_route("/health", self.ready, methods=["GET"], response_model=Readiness)
        router.add_api_route("/version", self.show_version, methods=["GET"])
        answer_heads(router)
        return router

    async def live(self) -> Alive:
        """Say that the process answers; nothing else is looked at."""
        return Alive()

    async def ready(self) -> Response:
        """Say whether requests can be taken now, and if not why."""
        readiness = self._readiness()
        return Response(readiness.model_dump_json(), 503 if readiness.reasons else 200, media_type="application/json")

    async def show_version(self) -> Version:
        """Return the server's version."""
        return Version(version=self.version)

    def _readiness(self) -> Readiness:
        status = self.engine.status
        reasons = ["the server is draining"] if self.is_draining() else []
        reasons += [] if status.phase is EnginePhase.READY else [status.reason]
        if self.engine.stalled_s > self.stall_after_s:
            reasons.append(f"the engine has work and has reported nothing for {self.engine.stalled_s:.0f} s")
        percent = None
        if status.progress is not None and status.progress.bytes_total:
            percent = round(100 * status.progress.bytes_done / status.progress.bytes_total, 1)
        return Readiness(
            status=self._word(is_fine=not reasons),
            reasons=reasons,
            load_percent=percent,
            in_flight=self.engine.num_in_flight,
        )

    def _word(self, *, is_fine: bool) -> str:
        if self.is_draining():
            return "draining"
        phase = self.engine.status.phase
        return phase.value if is_fine or phase is not EnginePhase.READY else "stalled"


@dataclass(frozen=True, slots=True)
class MetricsRoute:
    """The metrics of one server."""

    engine: EngineClient
    metrics: Metrics
    model_name: str
    is_draining: Callable[[], bool]

    def router(self) -> APIRouter:
        """Return the route."""
        router = APIRouter()
        router.add_api_route("/metrics", self.series, methods=["GET"], response_class=Response)
        return router

    async def series(self) -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(self.metrics.exposition(self._state()), media_type=CONTENT_TYPE)

    def _state(self) -> FrontState:
        status, limits = self.engine.status, self.engine.status.limits
        return FrontState(
            model_name=self.model_name,
            in_flight=self.engine.num_in_flight,
            is_ready=status.phase is EnginePhase.READY,
            num_engine_starts=self.engine.num_engines,
            page_size=limits.page_size if limits else 0,
            num_pages=limits.num_pages if limits else 0,
            is_draining=self.is_draining(),
        )
