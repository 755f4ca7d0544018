"""Worker processes that do for the front what a stranger's bytes could make dangerous or endless; one that dies or dawdles costs one job.

Workers are started when first needed, with an empty environment, and kept. Called from the threads in which requests are prepared.
"""

from __future__ import annotations

import logging
import queue
import socket
import subprocess
import time
from typing import Generic, TypeVar

from server.serving.installation import python_command
from server.serving.worker_messages import EndOfStream, Ready, receive_message, send_message

logger = logging.getLogger(__name__)

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}
"""All that a worker sees of the environment: no secrets."""
START_S = 30.0
"""How long a worker may take until it is ready: nobody's job is to blame for that."""


class JobFailed(Exception):
    """The worker died, took too long or said something that is no result."""


class AllBusy(Exception):
    """No worker was free in time."""


class Workers(Generic[JobT, ResultT]):
    """Up to ``num_workers`` processes that run ``main`` of ``module``. ``timeout_s``: seconds that one job may take, and that it waits for
    a free worker."""

    def __init__(self, module: str, result: type[ResultT], num_workers: int, timeout_s: float) -> None:
        self._module = module
        self._result = result
        self._timeout_s = timeout_s
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(num_workers):
            self._free.put(None)

    def run(self, job: JobT) -> ResultT:
        """Have a worker do a job.

        Raises:
            JobFailed, AllBusy
        """
        try:
            worker = self._free.get(timeout=self._timeout_s)
        except queue.Empty as error:
            raise AllBusy from error
        try:
            if worker is None or not worker.is_alive:
                worker = _Worker(self._module)
            return worker.run(job, self._result, self._timeout_s)
        except (EndOfStream, OSError) as error:
            # TimeoutError is an OSError: a job that takes too long ends its worker like one that breaks it.
            if worker is not None:
                worker.close()
            worker = None
            logger.warning("a job ended its worker, %s: %s", self._module.rpartition(".")[2], type(error).__name__)
            raise JobFailed from error
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """End the workers that are free; one that is busy ends after its job."""
        while not self._free.empty():
            worker = self._free.get()
            if worker is not None:
                worker.close()


class _Worker:
    """One process and our end of its socket."""

    def __init__(self, module: str) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                python_command(module, []), stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=ENVIRONMENT, start_new_session=True
            )
        try:
            receive_message(self._connection, Ready, START_S)
        except (EndOfStream, OSError):
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def run(self, job: object, result: type[ResultT], timeout_s: float) -> ResultT:
        started = time.monotonic()
        self._connection.settimeout(timeout_s)
        send_message(self._connection, job)
        return receive_message(self._connection, result, max(1e-3, started + timeout_s - time.monotonic()))

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()
