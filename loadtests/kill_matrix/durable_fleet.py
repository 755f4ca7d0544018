"""The fleet that faults are brought upon: replicas that share their streams in a Redis, behind a proxy that soon gives a silent one up."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from loadtests.fleet.box import FleetPlan
from loadtests.fleet.configurations import Proxy
from server.serving.engine_launch import command_line

SETTINGS = ("--keep-alive-s", "1", "--stall-after-s", "3", "--num-threads", "1", "--max-running", "3", "--num-pages", "2000")
PROXY = Proxy(by_prefix=False, silence_s=2.0, shun_s=2.0)
"""Servers ping every second. Clients are more patient: who leaves before the proxy has noticed may be sent to the same server again."""


def durable_plan(num_replicas: int, model: Path | None = None, settings: Sequence[str] = ()) -> FleetPlan:
    """Return a fleet that shares its streams and serves ``model``, or storybook."""
    served = () if model is None else ("--model", str(model))
    options = (*served, "--model-name", "plait", *SETTINGS, *settings)
    return FleetPlan(num_replicas, options, PROXY, with_redis=True)


def random_model(directory: Path) -> Path:
    """Write a small random model, the same every time."""
    subprocess.run(command_line(["random-model", str(directory)]), check=True)
    return directory
