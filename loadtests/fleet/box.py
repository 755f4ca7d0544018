"""A fleet on one machine without containers: replicas of the server, nginx in front of them, Prometheus beside them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.fleet.configurations import nginx_configuration, prometheus_configuration
from loadtests.fleet.processes import Process, answers, free_port, running

DRAIN_S = 60.0


@dataclass(frozen=True, slots=True)
class BoxPlan:
    """What to start. ``options`` are further options of every ``plait serve``."""

    num_replicas: int
    by_prefix: bool = True
    with_prometheus: bool = False
    options: Sequence[str] = ()


@dataclass(slots=True)
class Replica:
    """One server on ports of its own; it keeps them when it is started again."""

    number: int
    directory: Path
    options: Sequence[str]
    port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    process: Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def start(self) -> None:
        """Start the server; `wait_until_ready` says when it takes requests."""
        ports = ["--port", str(self.port), "--metrics-port", str(self.metrics_port), "--drain-s", f"{DRAIN_S:g}"]
        command = [sys.executable, "-m", "server", "serve", *ports, *self.options]
        log = self.directory / f"replica-{self.number}.log"
        self.process = Process(command, log, lambda: answers(f"http://{self.address}/readyz"))

    def wait_until_ready(self) -> None:
        """Wait until it takes requests.

        Raises:
            DidNotStart: it does not.
        """
        assert self.process is not None, "not started"
        self.process.wait_until_ready()

    def stop(self) -> int:
        """Let it finish what it runs; return its exit status."""
        assert self.process is not None, "not started"
        return self.process.stop(DRAIN_S + 30)

    def restart(self) -> None:
        """Stop it as a rollout does, start it again and wait until it is ready."""
        self.stop()
        self.start()
        self.wait_until_ready()


@dataclass(frozen=True, slots=True)
class Box:
    """A running fleet: ``url`` is nginx, ``prometheus_url`` is None without one."""

    url: str
    replicas: list[Replica]
    prometheus_url: str | None

    def restart_all(self) -> None:
        """Restart one replica after the other."""
        for replica in self.replicas:
            replica.restart()


@contextlib.contextmanager
def fleet(plan: BoxPlan, directory: Path) -> Iterator[Box]:
    """Run a fleet until the block ends; configurations and logs are in ``directory``.

    Raises:
        DidNotStart: a part of it does not come up.
    """
    replicas = [Replica(number, directory, plan.options) for number in range(1, plan.num_replicas + 1)]
    with contextlib.ExitStack() as stack:
        for replica in replicas:
            replica.start()
            stack.callback(replica.stop)
        for replica in replicas:
            replica.wait_until_ready()
        url = stack.enter_context(_nginx(replicas, directory, by_prefix=plan.by_prefix))
        prometheus_url = stack.enter_context(_prometheus(replicas, directory)) if plan.with_prometheus else None
        yield Box(url, replicas, prometheus_url)


@contextlib.contextmanager
def _nginx(replicas: Sequence[Replica], directory: Path, *, by_prefix: bool) -> Iterator[str]:
    port = free_port()
    addresses = [replica.address for replica in replicas]
    (directory / "nginx.conf").write_text(nginx_configuration(directory, port, addresses, by_prefix=by_prefix), encoding="utf-8")
    command = ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", str(directory / "nginx-start.log")]
    url = f"http://127.0.0.1:{port}"
    with running(Process(command, directory / "nginx.log", lambda: answers(f"{url}/livez"))):
        yield url


@contextlib.contextmanager
def _prometheus(replicas: Sequence[Replica], directory: Path) -> Iterator[str]:
    port = free_port()
    targets = [f"127.0.0.1:{replica.metrics_port}" for replica in replicas]
    (directory / "prometheus.yml").write_text(prometheus_configuration(targets), encoding="utf-8")
    command = [
        "prometheus",
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    url = f"http://127.0.0.1:{port}"
    with running(Process(command, directory / "prometheus.log", lambda: answers(f"{url}/-/ready"))):
        yield url
