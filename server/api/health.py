"""What probes and scrapers ask: alive, ready, metrics, version."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from server.metrics import CONTENT_TYPE, Metrics
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
    metrics: Metrics
    version: str
    stall_after_s: float

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter()
        router.add_api_route("/livez", self.live, methods=["GET"])
        router.add_api_route("/readyz", self.ready, methods=["GET"], response_model=Readiness)
        router.add_api_route("/health", self.ready, methods=["GET"], response_model=Readiness)
        router.add_api_route("/metrics", self.series, methods=["GET"], response_class=Response)
        router.add_api_route("/version", self.show_version, methods=["GET"])
        return router

    async def live(self) -> Alive:
        """Say that the process answers; nothing else is looked at."""
        return Alive()

    async def ready(self) -> Response:
        """Say whether requests can be taken now, and if not why."""
        readiness = self._readiness()
        return Response(readiness.model_dump_json(), 503 if readiness.reasons else 200, media_type="application/json")

    async def series(self) -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(self.metrics.exposition(), media_type=CONTENT_TYPE)

    async def show_version(self) -> Version:
        """Return the server's version."""
        return Version(version=self.version)

    def _readiness(self) -> Readiness:
        status = self.engine.status
        reasons = [] if status.phase is EnginePhase.READY else [status.reason]
        if self.engine.stalled_s > self.stall_after_s:
            reasons.append(f"the engine has work and has reported nothing for {self.engine.stalled_s:.0f} s")
        percent = None
        if status.progress is not None and status.progress.bytes_total:
            percent = round(100 * status.progress.bytes_done / status.progress.bytes_total, 1)
        return Readiness(
            status=status.phase.value if reasons == [] or status.phase is not EnginePhase.READY else "stalled",
            reasons=reasons,
            load_percent=percent,
            in_flight=self.engine.num_in_flight,
        )
