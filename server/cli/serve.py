"""``plait serve``."""

from __future__ import annotations

import argparse
import logging
import sys

from model.errors import CheckpointError
from server.cli.cache_directory import why_not_writable
from server.cli.command import Command, ExitStatus
from server.front import PROCESS, EngineCannotStart
from server.front import serve as serve_until_stopped
from server.logs import Say, announcer
from server.settings import BadSettings, Settings, add_options, settings_from, unknown_variables, wanted_log_format
from server.time_slices import take_short_slices

LESSON = """\
Serve a model over HTTP, as OpenAI's chat completions with pictures.

examples:
  plait serve                                  storybook, the small model that comes with Plait
  plait serve --model ./BAGEL-7B-MoT           a checkpoint directory (ema.safetensors, ae.safetensors, *.json)
  plait serve --model DIR --family interleaved --port 9000
  PLAIT_MODEL=DIR PLAIT_LOG_FORMAT=json plait serve

Every option can be given in the environment instead: --num-pages 4096 is PLAIT_NUM_PAGES=4096.
Sizes may be written short: 64k is 65,536, 2g is 2 x 1024^3.
The server prints its address and a command to try as soon as the model is loaded; GET /readyz tells a script the same.
Ctrl-C (or SIGTERM) lets running answers finish for --drain-s seconds; a second one stops at once.
"""


def run(options: argparse.Namespace) -> ExitStatus:
    """Serve until told to stop."""
    take_short_slices()
    log_format = wanted_log_format(options)
    complain = announcer(sys.stderr, log_format, PROCESS, logging.ERROR)
    try:
        settings = settings_from(options)
        _warn(announcer(sys.stderr, log_format, PROCESS, logging.WARNING), settings)
        serve_until_stopped(settings)
    except (BadSettings, CheckpointError) as error:
        complain(str(error))
        return ExitStatus.BAD_INPUT
    except EngineCannotStart as error:
        complain(f"the engine could not start: {error}")
        return ExitStatus.ENGINE_FAILED
    return ExitStatus.OK


def _warn(say: Say, settings: Settings) -> None:
    """Say what the server will do without."""
    for sentence in unknown_variables():
        say(sentence)
    if reason := why_not_writable(settings.cache_dir):
        say(reason)


COMMAND = Command("serve [options]", LESSON, add_options, run)
