"""What is done to a fleet in the middle of its work. Faults from outside are timed by the victim's engine: a test holds it at the phase."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtests.fleet.box import Fleet
from loadtests.fleet.processes import wait_until
from loadtests.fleet.replica import Replica

PHASES = {
    "queued": "prefill",
    "prefill": "prefill",
    "decode": "decode",
    "mid-denoise": "denoise",
    "VAE decode": "vae",
    "before the end": "last",
}
"""The engine's point for each phase. The first prefill comes while most requests still wait."""

ARRIVAL_S = 30.0
STOPPED_S = 20.0
UNREACHABLE_S = 10.0

Act = Callable[[Fleet, Replica], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and how it is brought about: by ``act`` while the engine is held, or by the engine itself at ``kind``."""

    name: str
    act: Act | None = None
    kind: str = "hold"


def inject(fault: Fault, phase: str, fleet: Fleet, victim: Replica) -> None:
    """Wait until the victim comes to the phase, then do the fault. Returns when the fault is over.

    Raises:
        DidNotStart: the victim never came to the phase.
    """
    armed = victim.fault_dir / f"{PHASES[phase]}.{fault.kind}"
    wait_until(lambda: not armed.exists(), ARRIVAL_S, f"no request came to the phase '{phase}'")
    if fault.act is not None:
        fault.act(fleet, victim)


def arm(fault: Fault, phase: str, victim: Replica) -> Path:
    """Prepare the victim's engine for the fault."""
    armed = victim.fault_dir / f"{PHASES[phase]}.{fault.kind}"
    armed.touch()
    return armed


def _terminate(fleet: Fleet, victim: Replica) -> None:
    victim.service.stop()
    victim.service.start()


def _kill(fleet: Fleet, victim: Replica) -> None:
    victim.service.kill()
    victim.service.start()


def _stop_for_a_while(fleet: Fleet, victim: Replica) -> None:
    pids = [victim.service.pid, *victim.service.children()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(STOPPED_S)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _kill_engine(fleet: Fleet, victim: Replica) -> None:
    for pid in victim.service.children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _restart_redis(fleet: Fleet, victim: Replica) -> None:
    assert fleet.redis is not None
    fleet.redis.service.stop()
    fleet.redis.service.start()
    fleet.redis.service.wait_until_ready()


def _silence_redis(fleet: Fleet, victim: Replica) -> None:
    assert fleet.redis is not None
    fleet.redis.service.signal(signal.SIGSTOP)
    time.sleep(UNREACHABLE_S)
    fleet.redis.service.signal(signal.SIGCONT)


def _restart_proxy(fleet: Fleet, victim: Replica) -> None:
    fleet.nginx.service.stop()
    fleet.nginx.service.start()


FAULTS = (
    Fault("SIGTERM", _terminate),
    Fault("SIGKILL", _kill),
    Fault("SIGSTOP 20 s", _stop_for_a_while),
    Fault("engine killed", _kill_engine),
    Fault("exception", kind="raise"),
    Fault("hang", kind="hang"),
    Fault("Redis restart", _restart_redis),
    Fault("Redis away 10 s", _silence_redis),
    Fault("proxy restart", _restart_proxy),
)
