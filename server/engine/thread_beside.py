"""A thread that takes a long pass to its end while steps are made beside it, on the CPU's processors that those leave it.

A decode step is bound by memory and a picture's pass by arithmetic, so that beside each other they take less than one after the other;
and nobody waits for a place where a pass can be left, since every operation can be, after the task it is at.

Steps have half of the threads, where there are two or more. With one they have it whole, and the pass stands still meanwhile. A pass that
hangs is waited for, so that the engine is seen to hang, whatever else it could do.
"""

from __future__ import annotations

import atexit
import ctypes
import math
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from threading import TIMEOUT_MAX, Event, Thread
from typing import Generic, TypeVar

import torch

from kernels.native_beside import NativeBeside
from model.stepwise import Steps

EVERY_THREAD = 1 << 10
"""More than any pool has."""
LEAST_TURN_S, LEAST_TURN_SHARE = 1e-3, 1 / 3
"""So long at least a pass goes on where it stands still beside steps, and for such a share of the time that these have had."""
HANGING_S, LOOK_S = 60.0, 0.1
"""A pass that has not come to its next bit for so long is waited for, and looked at so often."""
CLOSING_S = 30.0
"""A pass that is given up ends with the bit it is at."""
T = TypeVar("T")

_threads: weakref.WeakSet[ThreadBeside] = weakref.WeakSet()
_workers: weakref.WeakSet[Thread] = weakref.WeakSet()
"""Work is given up, and they have ended, before the interpreter ends: nothing may be computed while it is taken down."""


class ThreadBeside:
    """The thread, and who has how many threads of the C kernels."""

    def __init__(self, native: NativeBeside, num_threads: int) -> None:
        self._native = native
        self._num_threads = num_threads
        self._num_for_steps = (num_threads + 1) // 2
        self._num_left = num_threads - self._num_for_steps
        self._left_s = 0.0
        self._under_way: _Progress | None = None
        self._works: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        worker = Thread(target=_work_off, args=(native, self._works), name="beside", daemon=True)
        worker.start()
        weakref.finalize(self, self._works.put, None)
        _threads.add(self)
        _workers.add(worker)

    @property
    def share_of_steps(self) -> float:
        """What share of the processors steps have."""
        return self._num_for_steps / self._num_threads

    def begin(self, steps: Steps[T]) -> Beside[T]:
        """Begin to run ``steps`` to their end on the thread; one work at a time."""
        progress = self._under_way = _Progress(self._num_threads)
        self.leave_to_steps()
        future: Future[T] = Future()
        self._works.put(partial(_run, steps, progress, future))
        return Beside(self, progress, future)

    def help(self, progress: _Progress, until_s: float) -> None:
        """Give the work every thread, this one too, until ``until_s`` of `time.monotonic` or its end."""
        now_s = time.monotonic()
        if not self._num_left:
            until_s = max(until_s, now_s + max(LEAST_TURN_S, LEAST_TURN_SHARE * (now_s - self._left_s)))
        elif until_s <= now_s and not progress.hangs:
            return  # nobody is woken for nothing
        self._share(1, self._num_threads, self._num_threads)
        try:
            self._wait(progress, until_s)
            while progress.hangs and not progress.is_done.value:
                self._wait(progress, time.monotonic() + LOOK_S)
        finally:
            self.leave_to_steps()

    def _wait(self, progress: _Progress, until_s: float) -> None:
        if self._num_threads > 1:
            self._native.help_beside(until_s, progress.is_done)
        else:
            progress.has_ended.wait(min(TIMEOUT_MAX, max(0.0, until_s - time.monotonic())))

    def leave_to_steps(self) -> None:
        """Give the steps their threads; the place of this one beside them stays empty."""
        self._left_s = time.monotonic()
        self._share(self._num_for_steps, self._num_left + 1 if self._num_left else 0, self._num_left)

    def stand_still(self) -> None:
        """Let the work under way stand still until it is helped again."""
        if self._under_way is not None:
            self._share(EVERY_THREAD, 0, 0)

    def go_on(self) -> None:
        """Let the work under way go on beside the steps again."""
        if self._under_way is not None:
            self.leave_to_steps()

    def end(self, progress: _Progress) -> None:
        """Give the steps every thread again, unless other work is under way by now."""
        if self._under_way is progress:
            self._share(EVERY_THREAD, self._num_threads, self._num_threads)
            self._under_way = None

    def close(self) -> None:
        """Let the thread end, have the work under way given up, and wait for that, but not for ever: what hangs cannot be."""
        self._works.put(None)
        if (progress := self._under_way) is not None:
            progress.is_given_up = True
            self.end(progress)
            progress.has_ended.wait(CLOSING_S)

    def _share(self, num_for_steps: int, num_beside: int, num_there: int) -> None:
        """Let ``num_beside`` threads be at the work, of which ``num_there`` are there."""
        if self._under_way is not None:
            self._under_way.note_share(num_there)
        self._native.share_processors(num_for_steps, num_beside)


class _Progress:
    """How far a work is: shared by who waits for it and the thread that does it."""

    def __init__(self, num_threads: int) -> None:
        self.is_done = ctypes.c_int(0)
        self.has_ended = Event()
        self.is_given_up = False
        self.seconds = self.beside_s = 0.0
        self._num_threads = num_threads
        self._share, self._since_s = 0.0, time.monotonic()
        self._ended_s = math.inf
        self._beat_s = math.inf

    @property
    def hangs(self) -> bool:
        """Whether the work has begun, and has not come to its next bit for long."""
        return time.monotonic() - self._beat_s > HANGING_S

    def note_bit(self) -> None:
        """Take in that the work goes on."""
        self._beat_s = time.monotonic()

    def note_share(self, num_threads: int) -> None:
        """Take in that the work has so many threads from now on."""
        now_s = min(time.monotonic(), self._ended_s)
        self.seconds += self._share * (now_s - self._since_s)
        self.beside_s += (0.0 < self._share < 1.0) * (now_s - self._since_s)
        self._share, self._since_s = num_threads / self._num_threads, now_s

    def note_end(self) -> None:
        self._ended_s = time.monotonic()
        self.is_done.value = 1
        self.has_ended.set()


class Beside(Generic[T]):
    """A work that is done beside the steps."""

    def __init__(self, thread: ThreadBeside, progress: _Progress, future: Future[T]) -> None:
        self._thread = thread
        self._progress = progress
        self._future = future
        weakref.finalize(self, _give_up, thread, progress).atexit = False

    @property
    def seconds(self) -> float:
        """How long it took so far, counted as if it had had every thread."""
        return self._progress.seconds

    @property
    def beside_s(self) -> float:
        """How long of that it had some of the threads only."""
        return self._progress.beside_s

    def help(self, until_s: float) -> bool:
        """Give it every thread until ``until_s`` of `time.monotonic` or its end; return whether it has ended."""
        if not self._progress.is_done.value:
            self._thread.help(self._progress, until_s)
        return bool(self._progress.is_done.value)

    def result(self) -> T:
        """Return what it has come to.

        Raises:
            RuntimeError: what the device raised.
        """
        self._thread.end(self._progress)
        return self._future.result()


def _work_off(native: NativeBeside, works: SimpleQueue[Callable[[], None] | None]) -> None:
    torch.set_num_threads(1)
    native.compute_beside()
    while (work := works.get()) is not None:
        work()
        del work  # and with it all that it holds


def _run(steps: Steps[T], progress: _Progress, future: Future[T]) -> None:
    """Run ``steps`` to their end, whatever that is, and say so; whoever waits for the result is who it matters to."""
    try:
        with torch.inference_mode():
            while not progress.is_given_up:
                progress.note_bit()
                next(steps)
            steps.close()
        future.set_exception(RuntimeError("given up"))
    except StopIteration as end:
        future.set_result(end.value)
    except Exception as error:
        future.set_exception(error)
    progress.note_end()


def _give_up(thread: ThreadBeside, progress: _Progress) -> None:
    progress.is_given_up = True
    thread.end(progress)


@atexit.register
def _close_all() -> None:
    for thread in list(_threads):
        thread.close()
    for worker in list(_workers):
        worker.join(CLOSING_S)
