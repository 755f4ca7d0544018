"""A fleet in a box: replicas, Redis and nginx as real processes on this machine, no containers."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.kill_matrix.processes import Service, answers_ok, free_ports, plait, wait_until
from loadtests.kill_matrix.proxy import write_config

READY_S = 120.0
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What to start. ``settings`` are further options of every replica; ``model`` None serves the default one."""

    num_replicas: int = 3
    model: Path | None = None
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Replica:
    """One ``plait serve``; tests break its engine through files in ``fault_dir``."""

    service: Service
    port: int
    fault_dir: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        """Tell whether it takes requests."""
        return answers_ok(f"{self.url}/readyz")


@dataclass(slots=True)
class Fleet:
    """Running processes and where they answer."""

    directory: Path
    redis: Service
    redis_port: int
    nginx: Service
    port: int
    replicas: list[Replica] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self) -> None:
        """Wait until every replica takes requests.

        Raises:
            DidNotStart: one does not; its log is named.
        """
        for replica in self.replicas:
            wait_until(replica.is_ready, READY_S, f"{replica.service.name} is not ready; see {replica.service.log}")

    def start_redis(self) -> None:
        """Start Redis and wait until it listens."""
        self.redis.start()
        wait_until(lambda: _listens(self.redis_port), READY_S, f"Redis does not listen; see {self.redis.log}")

    def start(self) -> None:
        """Start everything, Redis first."""
        self.start_redis()
        for replica in self.replicas:
            replica.service.start()
        self.nginx.start()
        self.wait_until_ready()

    def stop(self) -> None:
        """End everything, Redis last."""
        for service in [self.nginx, *(replica.service for replica in self.replicas), self.redis]:
            service.stop()


@contextmanager
def running_fleet(directory: Path, plan: FleetPlan) -> Iterator[Fleet]:
    """Run a fleet until the block ends; logs and data lie in ``directory``."""
    fleet = _planned(directory, plan)
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.stop()


def _planned(directory: Path, plan: FleetPlan) -> Fleet:
    directory.mkdir(parents=True, exist_ok=True)
    nginx_port, redis_port, *ports = free_ports(2 + plan.num_replicas)
    redis_command = ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
    # Every write is on disk before it is answered: what was acknowledged survives a restart.
    durable = ["--appendonly", "yes", "--appendfsync", "always"]
    redis = Service("redis", [*redis_command, *durable], directory / "redis.log")
    config = write_config(directory, nginx_port, ports)
    nginx = Service(
        "nginx", ["nginx", "-c", str(config), "-p", str(directory), "-e", str(directory / "nginx.log")], directory / "nginx.out"
    )
    replicas = [_replica(directory, number, port, redis_port, plan) for number, port in enumerate(ports)]
    return Fleet(directory, redis, redis_port, nginx, nginx_port, replicas)


def _replica(directory: Path, number: int, port: int, redis_port: int, plan: FleetPlan) -> Replica:
    fault_dir = directory / f"faults-{number}"
    fault_dir.mkdir(exist_ok=True)
    options = ["--port", str(port), "--store", f"redis://127.0.0.1:{redis_port}/0", "--fault-dir", str(fault_dir), *plan.settings]
    if plan.model is not None:
        options += ["--model", str(plan.model)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
    service = Service(f"replica {number}", plait("serve", *options), directory / f"replica-{number}.log", environment)
    return Replica(service, port, fault_dir)


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


def random_model(directory: Path) -> Path:
    """Write a small random model, the same every time."""
    subprocess.run(plait("random-model", str(directory)), check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return directory
