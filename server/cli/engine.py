"""``plait engine``: the process that runs the model for a front. The front starts it; torch is imported here and nowhere above."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

import msgspec

from model.errors import CheckpointError
from server.cli.command import Command, ExitStatus
from server.engine.memory_plan import TooManyPages
from server.engine.options import EngineOptions, NoSuchDevice
from server.logs import configure_logs
from server.messages import EngineFailed
from server.serving.engine_link import SocketLink
from server.settings import LogFormat
from server.time_slices import take_long_slices, take_short_slices


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options, which only a front passes."""
    parser.add_argument("--socket", required=True)
    parser.add_argument("--options", required=True)
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-format", default=LogFormat.TEXT.value)


def run(options: argparse.Namespace) -> ExitStatus:
    """Run an engine for the front at the other end of the socket."""
    configure_logs(options.log_level, LogFormat(options.log_format), "engine")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_front, daemon=True).start()
    from server.engine.process import run_engine

    engine_options = msgspec.json.decode(options.options, type=EngineOptions)
    take_short_slices()
    with SocketLink(Path(options.socket)) as link:
        # The link's thread, which passes words on, is started; those that compute are not.
        take_long_slices()
        try:
            run_engine(engine_options, link)
        except (CheckpointError, NoSuchDevice, TooManyPages) as error:
            link.send_failed(EngineFailed(str(error)))
            return ExitStatus.ENGINE_FAILED
    return ExitStatus.OK


def _end_with_the_front() -> None:
    """End this process when its standard input closes: the front holds the other end and is gone."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


COMMAND = Command("engine --socket PATH --options JSON", "Runs the model for a front; started by plait serve.", add_options, run)
