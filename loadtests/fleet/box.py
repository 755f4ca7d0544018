"""A fleet on one machine without containers: replicas of the server, nginx in front of them, Redis and Prometheus beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.fleet.configurations import Proxy, nginx_configuration, prometheus_configuration
from loadtests.fleet.core_share import CoreShare, core_share
from loadtests.fleet.processes import Service, answers_ok, free_port, listens
from loadtests.fleet.replica import Replica


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What to start. ``options`` are further options of every ``plait serve``; ``rules`` are alerts for Prometheus.

    ``cores_each``: what each replica may use of the cores; None leaves them to take cores from each other.
    """

    num_replicas: int
    options: tuple[str, ...] = ()
    proxy: Proxy = Proxy()
    with_redis: bool = False
    with_prometheus: bool = False
    rules: Path | None = None
    cores_each: float | None = None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A process beside the replicas and the port it listens at."""

    service: Service
    port: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """Processes that make up a service. Streams are shared where there is a ``redis``."""

    replicas: list[Replica]
    nginx: Neighbour
    redis: Neighbour | None
    prometheus: Neighbour | None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.nginx.port}"

    @property
    def prometheus_url(self) -> str:
        assert self.prometheus is not None, "planned without Prometheus"
        return f"http://127.0.0.1:{self.prometheus.port}"

    def start(self) -> None:
        """Start everything, Redis first, and wait until all of it is ready.

        Raises:
            DidNotStart: a part of it does not come up.
        """
        if self.redis:
            self.redis.service.start()
            self.redis.service.wait_until_ready()
        for replica in self.replicas:
            replica.service.start()
        self.wait_until_ready()
        for neighbour in (self.nginx, self.prometheus):
            if neighbour:
                neighbour.service.start()
                neighbour.service.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until every replica takes requests.

        Raises:
            DidNotStart: one does not.
        """
        for replica in self.replicas:
            replica.service.wait_until_ready()

    def restart_all(self) -> None:
        """Restart one replica after the other."""
        for replica in self.replicas:
            replica.restart()

    def stop(self) -> None:
        """End everything, Redis last."""
        for neighbour in (self.prometheus, self.nginx):
            if neighbour:
                neighbour.service.stop()
        for replica in self.replicas:
            replica.service.stop()
        if self.redis:
            self.redis.service.stop()


@contextlib.contextmanager
def running_fleet(directory: Path, plan: FleetPlan) -> Iterator[Fleet]:
    """Run a fleet until the block ends; configurations, logs and data lie in ``directory``.

    Raises:
        DidNotStart: a part of it does not come up.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as groups:
        numbers = range(1, plan.num_replicas + 1)
        shares = [groups.enter_context(core_share(f"replica-{number}", plan.cores_each)) if plan.cores_each else None for number in numbers]
        fleet = _planned(directory, plan, shares)
        try:
            fleet.start()
            yield fleet
        finally:
            fleet.stop()


def _planned(directory: Path, plan: FleetPlan, shares: Sequence[CoreShare | None]) -> Fleet:
    redis = _redis(directory) if plan.with_redis else None
    options = [*plan.options, *(["--store", f"redis://127.0.0.1:{redis.port}/0"] if redis else [])]
    replicas = [Replica.planned(number, directory, options, share) for number, share in enumerate(shares, start=1)]
    prometheus = _prometheus(directory, replicas, plan.rules) if plan.with_prometheus else None
    return Fleet(replicas, _nginx(directory, replicas, plan.proxy), redis, prometheus)


def _redis(directory: Path) -> Neighbour:
    """Plan a Redis that has every write on disk before it answers: what was acknowledged survives a restart."""
    port = free_port()
    kept = ["--dir", str(directory), "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", *kept]
    return Neighbour(Service("redis", command, directory / "redis.log", lambda: listens(port)), port)


def _nginx(directory: Path, replicas: list[Replica], proxy: Proxy) -> Neighbour:
    port = free_port()
    configuration = nginx_configuration(directory, port, [replica.port for replica in replicas], proxy)
    (directory / "nginx.conf").write_text(configuration, encoding="utf-8")
    command = ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", str(directory / "nginx-error.log")]
    return Neighbour(Service("nginx", command, directory / "nginx.log", lambda: listens(port)), port)


def _prometheus(directory: Path, replicas: list[Replica], rules: Path | None) -> Neighbour:
    port = free_port()
    configuration = prometheus_configuration([replica.port for replica in replicas], rules)
    (directory / "prometheus.yml").write_text(configuration, encoding="utf-8")
    places = [f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/tsdb"]
    command = ["prometheus", *places, f"--web.listen-address=127.0.0.1:{port}"]
    is_ready = f"http://127.0.0.1:{port}/-/ready"
    return Neighbour(Service("prometheus", command, directory / "prometheus.log", lambda: answers_ok(is_ready)), port)
