"""Worker processes that do for the front what a stranger's bytes could make dangerous or endless; one that dies or dawdles costs one job.

Workers are started when first needed, with an empty environment, and kept. Called from the threads in which requests are prepared.
"""

from __future__ import annotations

import logging
import queue
import signal
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
    """The worker died of the job, or said something that is no result."""


class TooMuchWork(JobFailed):
    """The job took all the processor time that one may take."""


class TookTooLong(Exception):
    """The job was not done in time, which may be the fault of a busy machine."""


class CannotStart(Exception):
    """There is no worker, and none can be started; no job is to blame."""


class AllBusy(Exception):
    """No worker was free in time."""


class Workers(Generic[JobT, ResultT]):
    """Up to ``num_workers`` processes that run ``module``. ``timeout_s``: seconds that one job may take, by the clock; ``wait_s``: that it
    waits for a free worker."""

    def __init__(self, module: str, result: type[ResultT], num_workers: int, timeout_s: float, wait_s: float) -> None:
        self._module = module
        self._result = result
        self._timeout_s = timeout_s
        self._wait_s = wait_s
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(num_workers):
            self._free.put(None)

    def run(self, job: JobT) -> ResultT:
        """Have a worker do a job. A kept one that dies in the middle may have died of anything: the job goes to a fresh one, once.

        Raises:
            JobFailed, TookTooLong, CannotStart, AllBusy
        """
        try:
            worker = self._free.get(timeout=self._wait_s)
        except queue.Empty as error:
            raise AllBusy from error
        try:
            if worker is not None and worker.is_alive:
                try:
                    return self._done(worker, job)
                except _Died:
                    pass
            worker = self._fresh(worker)
            return self._done(worker, job)
        except _Died as error:
            raise JobFailed from error
        finally:
            self._free.put(worker if worker is not None and worker.is_alive else None)

    def close(self) -> None:
        """End the workers that are free; one that is busy ends after its job."""
        while not self._free.empty():
            worker = self._free.get()
            if worker is not None:
                worker.close()

    def _fresh(self, before: _Worker | None) -> _Worker:
        """Return a new worker in the place of one that has died, or of none."""
        if before is not None:
            before.close()
        try:
            return _Worker(self._module)
        except (EndOfStream, OSError) as error:
            logger.error("a worker cannot be started, %s: %s", self._name, type(error).__name__)
            raise CannotStart from error

    def _done(self, worker: _Worker, job: JobT) -> ResultT:
        try:
            return worker.run(job, self._result, self._timeout_s)
        except (TooMuchWork, TookTooLong, _Died) as error:
            logger.warning("a job ended its worker, %s: %s", self._name, type(error).__name__)
            raise

    @property
    def _name(self) -> str:
        return self._module.rpartition(".")[2]


class _Died(Exception):
    """The worker is no more, for whatever reason."""


class _Worker:
    """One process and our end of its socket."""

    def __init__(self, module: str) -> None:
        self._connection, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    python_command(module, []), stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=ENVIRONMENT, start_new_session=True
                )
        except OSError:
            self._connection.close()
            raise
        try:
            receive_message(self._connection, Ready, START_S)
        except (EndOfStream, OSError):
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def run(self, job: object, result: type[ResultT], timeout_s: float) -> ResultT:
        """Do a job; whatever is raised, the worker is closed."""
        started = time.monotonic()
        self._connection.settimeout(timeout_s)
        try:
            send_message(self._connection, job)
            return receive_message(self._connection, result, max(1e-3, started + timeout_s - time.monotonic()))
        except TimeoutError as error:
            self.close()
            raise TookTooLong from error
        except (EndOfStream, OSError) as error:
            self.close()
            raise (TooMuchWork if self._process.returncode == -signal.SIGPROF else _Died) from error

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()
