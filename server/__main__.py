"""The command line, and the one place where the server's parts are made and handed to each other.

``plait serve`` runs the HTTP front in this process and ``plait engine`` in a child. The child is the only one that imports torch.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import msgspec
from starlette.types import ASGIApp

from model.errors import CheckpointError
from server.api.app import build_app
from server.api.chat import ChatRoutes
from server.api.health import HealthRoutes
from server.api.home import HomeRoute
from server.api.http_server import HttpServer, run_in_event_loop
from server.api.models import ModelRoutes
from server.engine.options import EngineOptions
from server.logs import configure_logs
from server.messages import EngineFailed
from server.metrics import Metrics
from server.serving.engine_client import EngineClient, EnginePhase, RestartPolicy
from server.serving.engine_launch import Launch, command_line, subprocess_launcher
from server.serving.engine_link import SocketLink
from server.serving.generation import GenerationService
from server.serving.pictures import PictureLimits
from server.serving.prepare import Preparer, PromptLimits
from server.serving.served_model import ServedModel
from server.serving.startup_display import StartupDisplay
from server.settings import BadSettings, LogFormat, Settings, add_options, engine_environment, settings_from

logger = logging.getLogger(__name__)

EXIT_BAD_INPUT = 2
EXIT_ENGINE_FAILED = 3

ENGINE_STOP_S = 10.0
"""How long the engine may take over its last step before it is ended by force."""

RANDOM_MODEL_NAME = "plait"
"""What clients call the model that is served when none is given."""

SERVE_HELP = """\
Serve a model over HTTP, as OpenAI's chat completions with pictures.

examples:
  plait serve                                  a small random model: shows that everything works, draws noise
  plait serve --model ./BAGEL-7B-MoT           a checkpoint directory (ema.safetensors, ae.safetensors, *.json)
  plait serve --model DIR --family interleaved --port 9000
  PLAIT_MODEL=DIR PLAIT_LOG_FORMAT=json plait serve

Every option can be given in the environment instead: --num-pages 4096 is PLAIT_NUM_PAGES=4096.
The server prints its address and a command to try as soon as the model is loaded; GET /readyz tells a script the same.
Ctrl-C (or SIGTERM) lets running answers finish for --drain-s seconds; a second one stops at once.
"""


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "serve":
                return serve(settings_from(options))
            case "engine":
                return run_engine_process(options)
            case _:
                return write_random_model(Path(options.directory))
    except (BadSettings, CheckpointError) as error:
        print(f"plait: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="plait", description="A server for models that write and paint in one answer.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="serve")
    raw = argparse.RawDescriptionHelpFormatter
    add_options(commands.add_parser("serve", help="serve a model over HTTP", description=SERVE_HELP, formatter_class=raw))
    engine = commands.add_parser("engine", description="Runs the model for a front; started by plait serve.")
    engine.add_argument("--socket", required=True)
    engine.add_argument("--options", required=True)
    engine.add_argument("--log-level", default="info")
    engine.add_argument("--log-format", default=LogFormat.TEXT.value)
    random_model = commands.add_parser("random-model", description="Writes a small random model.")
    random_model.add_argument("directory")
    return parser


# -- the front ------------------------------------------------------------------------------------------------------------------


def serve(settings: Settings) -> int:
    """Serve until told to stop; return the exit status.

    Raises:
        CheckpointError, BadSettings: the model directory or the address cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="plait-") as directory:
        path = settings.model or _random_model(Path(directory) / RANDOM_MODEL_NAME)
        name = settings.model_name or path.resolve().name
        model = ServedModel.from_directory(path, name, settings.family)
        try:
            listener = listening_socket(settings.host, settings.port)
        except OSError as error:
            reason = error.strerror or "no such address"
            raise BadSettings(f"cannot listen on {settings.host} port {settings.port}: {reason}") from error
        with listener:
            configure_logs(settings.log_level, settings.log_format, "front")
            return run_in_event_loop(_serve_on(listener, settings, model, path, Path(directory)))


async def _serve_on(listener: socket.socket, settings: Settings, model: ServedModel, path: Path, directory: Path) -> int:
    launch = subprocess_launcher(_engine_options(settings, path), _logging_arguments(settings), engine_environment())
    front = build_front(settings, model, launch, directory)
    http = HttpServer(front.app, settings.drain_s)
    http.stop_on_signals()
    display = StartupDisplay(sys.stderr, model.name, _url(listener))
    engine_task = asyncio.create_task(front.engine.run())
    engine_task.add_done_callback(lambda _: http.stop())
    display_task = asyncio.create_task(display.follow(front.engine))
    try:
        await http.serve(listener)
    finally:
        display_task.cancel()
        has_failed = front.engine.status.phase is EnginePhase.FAILED
        await front.engine.stop(ENGINE_STOP_S, engine_task)
    if has_failed:
        print(f"plait: the engine could not start: {front.engine.status.reason}", file=sys.stderr)
        return EXIT_ENGINE_FAILED
    return 0


@dataclass(frozen=True, slots=True)
class Front:
    """The HTTP application and the client of its engine, whose `run` somebody must await."""

    app: ASGIApp
    engine: EngineClient


def build_front(settings: Settings, model: ServedModel, launch: Launch, directory: Path) -> Front:
    """Make the front's parts and hand them to each other; ``directory`` is private and holds the engine's socket."""
    metrics = Metrics()
    engine = EngineClient(launch, directory, metrics.observe_step, RestartPolicy())
    limits = PromptLimits(settings.max_pictures, PictureLimits(max_pixels=settings.max_picture_pixels))
    service = GenerationService(model, Preparer(model, limits), engine, metrics, settings.max_in_flight)
    routers = [
        HomeRoute(model.name).router(),
        ChatRoutes(service, model.name, settings.keep_alive_s).router(),
        ModelRoutes(model).router(),
        HealthRoutes(engine, metrics, _version(), settings.stall_after_s).router(),
    ]
    return Front(build_app(routers, metrics, _version(), settings.max_body_bytes), engine)


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
        page_size=settings.page_size,
        num_pages=settings.num_pages,
        max_batch_tokens=settings.max_batch_tokens,
        max_running=settings.max_running,
        num_threads=settings.num_threads,
    )
    return msgspec.json.encode(options).decode()


def _logging_arguments(settings: Settings) -> list[str]:
    return ["--log-level", settings.log_level, "--log-format", settings.log_format.value]


def _random_model(directory: Path) -> Path:
    """Make a model to serve when none is given, and say so."""
    print(
        "plait: NO MODEL GIVEN. Serving a small RANDOM model: its words and pictures are noise.\n"
        "plait: serve a real one with  plait serve --model DIR",
        file=sys.stderr,
    )
    subprocess.run(command_line(["random-model", str(directory)]), check=True)
    return directory


def _version() -> str:
    try:
        return importlib.metadata.version("plait")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"


# -- the engine process: torch is imported here and nowhere above ----------------------------------------------------------------


def run_engine_process(options: argparse.Namespace) -> int:
    """Run an engine for the front at the other end of the socket; return the exit status."""
    configure_logs(options.log_level, LogFormat(options.log_format), "engine")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_front, daemon=True).start()
    from server.engine.process import run_engine

    engine_options = msgspec.json.decode(options.options, type=EngineOptions)
    with SocketLink(Path(options.socket)) as link:
        try:
            run_engine(engine_options, link)
        except CheckpointError as error:
            link.send_failed(EngineFailed(str(error)))
            return EXIT_ENGINE_FAILED
    return 0


def _end_with_the_front() -> None:
    """End this process when its standard input closes: the front holds the other end and is gone."""
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)


def write_random_model(directory: Path) -> int:
    """Write a small random model; equal every time."""
    from model.config import BagelConfig
    from model.random_checkpoint import write_random_checkpoint

    write_random_checkpoint(directory, BagelConfig.named("tiny"), seed=0)
    return 0


if __name__ == "__main__":
    main()
