"""Makes the server's parts, hands them to each other, and serves until told to stop: the one place where things are wired.

The HTTP front runs in this process, ``plait engine`` in a child. The child is the only one that imports torch.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import socket
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec
from starlette.types import ASGIApp

from model.model_names import directory_name
from model.shipped import STORYBOOK
from server.access.fetch import FetchRules, PictureFetcher
from server.access.keys import BadKeys, KeyRing
from server.api.app import Door, build_app
from server.api.arrivals import Doorway
from server.api.chat import ChatRoutes
from server.api.chat_surface import ChatSurface
from server.api.files import FileRoutes
from server.api.health import HealthRoutes, MetricsRoute
from server.api.home import HomeRoutes
from server.api.http_server import HttpServer, run_in_event_loop, serving_beside
from server.api.image_surfaces import ImageSurface
from server.api.images import ImageRoutes
from server.api.models import ModelRoutes
from server.api.response_records import Records
from server.api.response_references import References
from server.api.response_surface import ResponseSurface
from server.api.responses import ResponseRoutes
from server.api.streams import StreamRoutes
from server.api.tokens import TokenRoutes
from server.api.traced import Traced
from server.durability import Durability, Shared, build_durability, open_store
from server.engine.options import EngineOptions
from server.logs import announcer, configure_logs
from server.messages import StepReport
from server.metrics import Metrics
from server.serving.engine_client import EngineClient, EnginePhase, RestartPolicy
from server.serving.engine_launch import Launch, subprocess_launcher
from server.serving.generation import GenerationService
from server.serving.grammar_writers import GrammarWriters
from server.serving.notes import Notes
from server.serving.picture_files import PictureLimits
from server.serving.picture_intake import PictureIntake
from server.serving.picture_links import PictureLinks
from server.serving.picture_readers import PictureReaders
from server.serving.prepare import Preparer, PromptLimits
from server.serving.room import Room
from server.serving.served_model import ServedModel
from server.serving.startup_display import StartupDisplay
from server.serving.token_counts import TokenCounter
from server.settings import BadSettings, LogFormat, Settings, engine_environment
from server.tracing import Tracing

PROCESS = "front"
"""What its log lines call this process."""

ENGINE_STOP_S = 10.0
"""How long the engine may take over its last step before it is ended by force."""

DEFAULT_TARGET_MS, DEFAULT_TARGET_DECODES = 40.0, 6.0
"""Between two tokens, where no target is set: faster than anybody reads, and pictures keep five sixths of a slow machine. What five, six
and seven decode steps make of mixed traffic is in `loadtests/results/mixed`."""
LEAST_TARGET_DECODES = 1.5
"""A target below one and a half decode steps' time cannot be kept beside any other work."""


class EngineCannotStart(Exception):
    """The engine gave up; the message is for the operator."""


def serve(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        CheckpointError, BadSettings: the model directory or the address cannot be used.
        EngineCannotStart: the engine gave up.
    """
    with tempfile.TemporaryDirectory(prefix="plait-") as directory:
        path = settings.model or STORYBOOK
        name = settings.model_name or directory_name(path)
        model = ServedModel.from_directory(path, name, settings.family)
        with _listener(settings.host, settings.port) as listener, _metrics_listener(settings) as metrics_listener:
            configure_logs(settings.log_level, settings.log_format, PROCESS)
            listeners = Listeners(listener, metrics_listener)
            run_in_event_loop(_serve_on(listeners, settings, model, path, Path(directory)))


@dataclass(frozen=True, slots=True)
class Listeners:
    """Where the API is served, and where the metrics if they have a port of their own."""

    api: socket.socket
    metrics: socket.socket | None


def _listener(host: str, port: int) -> socket.socket:
    try:
        return listening_socket(host, port)
    except OSError as error:
        reason = error.strerror or "no such address"
        raise BadSettings(f"cannot listen on {host} port {port}: {reason}") from error


def _metrics_listener(settings: Settings) -> AbstractContextManager[socket.socket | None]:
    if settings.metrics_port is None:
        return nullcontext()
    return _listener(settings.metrics_host or settings.host, settings.metrics_port)


async def _serve_on(listeners: Listeners, settings: Settings, model: ServedModel, path: Path, directory: Path) -> None:
    launch = subprocess_launcher(_engine_options(settings, path), _logging_arguments(settings), engine_environment())
    front = build_front(settings, model, launch, directory)
    http = HttpServer(front.app, settings.drain_s)
    leaving: set[asyncio.Task[None]] = set()
    http.stop_on_signals(lambda: leaving.add(asyncio.create_task(front.durability.farewell.begin())))
    display = _display(settings, model, _url(listeners.api))
    engine_task = asyncio.create_task(front.run())
    engine_task.add_done_callback(lambda _: http.stop())
    display_task = asyncio.create_task(display.follow(front.engine))
    try:
        async with serving_beside(front.metrics_app, listeners.metrics):
            await http.serve(listeners.api)
        await asyncio.gather(*leaving)
        await front.durability.farewell.end()
    finally:
        display_task.cancel()
        has_failed = front.engine.status.phase is EnginePhase.FAILED
        await front.engine.stop(ENGINE_STOP_S, engine_task)
        await front.close()
    if has_failed:
        raise EngineCannotStart(front.engine.status.reason)


def _display(settings: Settings, model: ServedModel, url: str) -> StartupDisplay:
    """Return what reports on standard error how the start goes: as lines and bars to a person, as JSON lines to a program."""
    say = announcer(sys.stderr, settings.log_format, PROCESS)
    is_for_people = settings.log_format is LogFormat.TEXT and sys.stderr.isatty()
    return StartupDisplay(say, sys.stderr if is_for_people else None, model, url, settings.max_running)


@dataclass(frozen=True, slots=True)
class Front:
    """A server's parts. `run` keeps the engine and the streams going; when it has ended, `close` lets go of the rest.

    Attributes:
        app: the application of the main port.
        metrics_app: that of the metrics port.
    """

    app: ASGIApp
    metrics_app: ASGIApp
    engine: EngineClient
    preparer: Preparer
    durability: Durability
    tracing: Tracing

    async def close(self) -> None:
        """Let go of the worker processes, the collector of traces and the store."""
        self.preparer.close()
        self.tracing.close()
        await self.durability.store.close()

    async def run(self) -> None:
        """Keep the engine and the streams going until one of them ends.

        What was made before lives as long as the process: the collector is told not to look through it in the middle of an answer.
        """
        gc.collect()
        gc.freeze()
        tasks = {asyncio.create_task(self.engine.run()), asyncio.create_task(self.durability.run())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def build_front(settings: Settings, model: ServedModel, launch: Launch, directory: Path) -> Front:
    """Make the front's parts and hand them to each other; ``directory`` is private and holds the engine's socket."""
    metrics = Metrics()
    tracing = make_tracing(settings)

    def observe_step(report: StepReport) -> None:
        metrics.observe_step(report)
        tracing.observe_step(report)

    engine = EngineClient(launch, directory, observe_step, RestartPolicy(stall_after_s=settings.stall_after_s))
    readers = PictureReaders(model.config, PictureLimits(max_pixels=settings.max_picture_pixels))
    fetcher = PictureFetcher(FetchRules(settings.fetch_host_names)) if settings.fetch_host_names else None
    pictures = PictureIntake(readers, fetcher)
    limits = PromptLimits(settings.max_pictures)
    preparer = Preparer(model, limits, pictures, GrammarWriters())
    room = Room(engine, settings.max_in_flight)
    service = GenerationService(model, preparer, engine, metrics, tracing, room)
    store = open_store(settings)
    links = PictureLinks(store)
    chat, responses = ChatSurface(model.name, links), ResponseSurface(model.name)
    drawn, edited = ImageSurface("image_generation", model.name, links), ImageSurface("image_edit", model.name, links)
    shared = Shared(store, links, service, engine, metrics)
    durability = build_durability(settings, shared, [chat, responses, drawn, edited])
    acceptance = durability.acceptance
    doorway = Doorway(acceptance, settings.keep_alive_s, settings.public_url)
    records = Records(Notes(durability.hub), acceptance)
    home = HomeRoutes.of_this_package()
    routers = [
        home.router(),
        ChatRoutes(doorway, chat).router(),
        ImageRoutes(doorway, drawn, edited).router(),
        FileRoutes(links, settings.stream_ttl_s).router(),
        ResponseRoutes(doorway, responses, records, References(records, settings.max_body_bytes)).router(),
        StreamRoutes(acceptance, settings.keep_alive_s).router(),
        ModelRoutes(model, limits).router(),
        TokenRoutes(TokenCounter(model)).router(),
    ]

    def is_draining() -> bool:
        return durability.takeover.is_draining

    probes = HealthRoutes(engine, version(), settings.stall_after_s, is_draining).router()
    series = MetricsRoute(engine, metrics, model.name, is_draining).router()
    public = [probes, series] if settings.serves_metrics_publicly else [probes]
    app = build_app([*routers, *public], metrics, version(), settings.max_body_bytes, Door(key_ring(settings), home.paths, room))
    metrics_app = build_app([probes, series], metrics, version(), settings.max_body_bytes, Door(KeyRing()))
    return Front(Traced(app, tracing), metrics_app, engine, preparer, durability, tracing)


def make_tracing(settings: Settings) -> Tracing:
    """Return where spans go: to the collector that the settings name, or nowhere.

    Raises:
        BadSettings: OpenTelemetry is not installed.
    """
    if settings.otlp_endpoint is None:
        return Tracing()
    try:
        from server.otlp_tracing import OtlpTracing, otlp_processor
    except ImportError as error:
        raise BadSettings("otlp_endpoint: OpenTelemetry is not installed; pip install 'plait[telemetry]'") from error
    return OtlpTracing(otlp_processor(settings.otlp_endpoint), version())


def key_ring(settings: Settings) -> KeyRing:
    """Return the keys that the settings name.

    Raises:
        BadSettings: the key file cannot be used.
    """
    try:
        if settings.keys_file is not None:
            return KeyRing.from_file(settings.keys_file)
    except BadKeys as error:
        raise BadSettings(str(error)) from error
    return KeyRing() if settings.api_key is None else KeyRing.of_secret(settings.api_key.get_secret_value())


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that an address in use is known before the model is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def _engine_options(settings: Settings, path: Path) -> str:
    options = EngineOptions(
        model_path=str(path),
        family=settings.family,
        device=settings.device,
        dtype=settings.dtype,
        quantization=settings.quantization,
        kv_dtype=settings.kv_dtype,
        page_size=settings.page_size,
        num_pages=settings.num_pages,
        max_batch_tokens=settings.max_batch_tokens,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        inter_token_target_s=(settings.inter_token_target_ms or DEFAULT_TARGET_MS) / 1000,
        min_target_decodes=DEFAULT_TARGET_DECODES if settings.inter_token_target_ms is None else LEAST_TARGET_DECODES,
        has_prefix_cache=settings.prefix_cache,
        num_threads=settings.num_threads,
        cache_dir=str(settings.cache_dir.expanduser()),
        fault_dir=None if settings.fault_dir is None else str(settings.fault_dir),
    )
    return msgspec.json.encode(options).decode()


def _logging_arguments(settings: Settings) -> list[str]:
    return ["--log-level", settings.log_level, "--log-format", settings.log_format.value]


def version() -> str:
    """Return the installed version."""
    try:
        return importlib.metadata.version("plait")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"
