"""Worker processes that do for the front what a stranger's bytes could make dangerous or endless; one that dies or dawdles costs one job.

Workers are started when first needed, with an empty environment, and kept. Called from the threads in which requests are prepared. A job
whose client goes is given up, with its worker where that is at it for long: others wait.
"""

from __future__ import annotations

import logging
import queue
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from server.serving.installation import python_command
from server.serving.interest import NobodyWaits
from server.serving.worker_messages import EndOfStream, Ready, receive_message, send_message

logger = logging.getLogger(__name__)

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}
"""All that a worker sees of the environment: no secrets."""
START_S = 30.0
"""How long a worker may take until it is ready: nobody's job is to blame for that."""
LOOK_S = 0.25
"""How often it is looked whether a job is still wanted: no sooner than most are done, since a new worker costs more than they do."""


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
        self._is_closed = False
        for _ in range(num_workers):
            self._free.put(None)

    def run(self, job: JobT, is_wanted: Callable[[], bool]) -> ResultT:
        """Have a worker do a job, while it ``is_wanted``. A kept one that dies in the middle may have died of anything: the job goes to a
        fresh one, once.

        Raises:
            JobFailed, TookTooLong, CannotStart, AllBusy, NobodyWaits
        """
        worker = self._next_free(is_wanted)
        try:
            if worker is not None and worker.is_alive:
                try:
                    return self._done(worker, job, is_wanted)
                except _Died:
                    pass
            worker = self._fresh(worker)
            return self._done(worker, job, is_wanted)
        except _Died as error:
            raise JobFailed from error
        finally:
            self._free.put(worker if worker is not None and worker.is_alive else None)
            if self._is_closed:
                self.close()

    def close(self) -> None:
        """End the workers that are free; one that is busy ends after its job."""
        self._is_closed = True
        while True:
            try:
                worker = self._free.get_nowait()
            except queue.Empty:
                return
            if worker is not None:
                worker.close()

    def _next_free(self, is_wanted: Callable[[], bool]) -> _Worker | None:
        """Wait for a worker that is free, or for the place of one."""
        ends = time.monotonic() + self._wait_s
        while is_wanted():
            left_s = max(0.0, ends - time.monotonic())
            try:
                return self._free.get(timeout=min(left_s, LOOK_S))
            except queue.Empty as error:
                if not left_s:
                    raise AllBusy from error
        raise NobodyWaits

    def _fresh(self, before: _Worker | None) -> _Worker:
        """Return a new worker in the place of one that has died, or of none."""
        if before is not None:
            before.close()
        try:
            return _Worker(self._module)
        except (EndOfStream, OSError) as error:
            logger.error("a worker cannot be started, %s: %s", self._name, type(error).__name__)
            raise CannotStart from error

    def _done(self, worker: _Worker, job: JobT, is_wanted: Callable[[], bool]) -> ResultT:
        try:
            return worker.run(job, self._result, time.monotonic() + self._timeout_s, is_wanted)
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

    def run(self, job: object, result: type[ResultT], deadline: float, is_wanted: Callable[[], bool]) -> ResultT:
        """Do a job by ``deadline``, on the monotonic clock; whatever is raised, the worker is closed."""
        self._connection.settimeout(_left_s(deadline))
        try:
            send_message(self._connection, job)
            self._await_answer(deadline, is_wanted)
            return receive_message(self._connection, result, _left_s(deadline))
        except NobodyWaits:
            self.close()
            raise
        except TimeoutError as error:
            self.close()
            raise TookTooLong from error
        except (EndOfStream, OSError) as error:
            self.close()
            raise (TooMuchWork if self._process.returncode == -signal.SIGPROF else _Died) from error

    def _await_answer(self, deadline: float, is_wanted: Callable[[], bool]) -> None:
        """Return when the worker says something, or is no more."""
        while True:
            left_s = _left_s(deadline)
            self._connection.settimeout(min(left_s, LOOK_S))
            try:
                self._connection.recv(1, socket.MSG_PEEK)
                return
            except TimeoutError:
                if left_s <= LOOK_S:
                    raise
            if not is_wanted():
                raise NobodyWaits

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


def _left_s(deadline: float) -> float:
    """Return what a socket may take until then: never nothing, which would be no bound."""
    return max(1e-3, deadline - time.monotonic())
