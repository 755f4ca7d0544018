"""``plait serve``."""

from __future__ import annotations

import argparse

from model.errors import CheckpointError
from server.cli.command import Command, ExitStatus, Refused
from server.front import EngineCannotStart
from server.front import serve as serve_until_stopped
from server.settings import BadSettings, add_options, settings_from
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
    try:
        serve_until_stopped(settings_from(options))
    except (BadSettings, CheckpointError) as error:
        raise Refused(str(error)) from error
    except EngineCannotStart as error:
        raise Refused(f"the engine could not start: {error}", ExitStatus.ENGINE_FAILED) from error
    return ExitStatus.OK


COMMAND = Command("serve [options]", LESSON, add_options, run)
