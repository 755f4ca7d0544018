"""The engine loop: take in messages, schedule, execute, commit, report; once round is one step.

A long pass is executed bit by bit, or goes on beside the steps. Between two bits, or whenever it is time, the loop takes in messages and
lets through the steps the scheduler asks for meanwhile, so that neither a token nor an abort waits for a picture.

Where the device works by itself while the host goes on, the next step is begun before what this one brought is taken in, as often as it
can be foreseen (`run_ahead`), and finished pictures are decoded beside the steps: nobody's next token waits for that. (Those of prompts
are encoded there too, when the scheduler asks for it: `encodings`.) What of a step cannot be begun so early, draws that a grammar has a say
in, is begun when the one before has been taken in.

A step that raises is run again in halves until the sequence that breaks it stands alone; that one fails, the others go on as if
nothing had happened (the runner changes no state in a step that raised).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from server.engine.batch import Batch, BatchResult, LatePicture
from server.engine.fault_points import NO_FAULTS
from server.engine.link import Incoming, Link
from server.engine.pages import PagePool
from server.engine.phases import PhaseWatch
from server.engine.scheduler import Scheduler
from server.engine.step_stats import step_stats
from server.messages import Abort, Picture, Request, Shutdown, StepReport

logger = logging.getLogger(__name__)

IDLE_WAIT_S = 0.5
"""How long an idle engine waits for a message before it looks again whether it should stop."""
STUCK_WAIT_S = 0.001
"""How long an engine waits for a message before it asks again for a step, when neither of the last two found anything to do: all there is
may wait for its picture to be decoded, or for its grammar. A single one such may have moved a sequence on that found all its rows in the
prefix cache."""

DEVICE_IS_LOST = ("CUDA error", "Triton Error [CUDA]")
"""What every call fails with once the device has faulted, whatever is asked of it (running out of memory is another matter)."""
ASKED_TOO_MUCH = ("CUBLAS_STATUS_NOT_SUPPORTED", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_INVALID_VALUE")
"""What that is said of too, where a library only could not do what it was asked to: the device goes on."""


class DividedPass(Protocol):
    """A step that others are let through. ``next_bit_s``: how long the next bit of it may take, in seconds; 0 before the first, and where
    it has none because it goes on beside the others."""

    result: BatchResult | None

    @property
    def next_bit_s(self) -> float: ...

    def advance(self, until_s: float) -> bool: ...


class Executor(Protocol):
    """What the loop needs of a runner."""

    def execute(self, batch: Batch) -> BatchResult: ...

    def begin(self, batch: Batch) -> DividedPass: ...

    def forget(self, sequence_ids: list[int]) -> None: ...


class Launched(Protocol):
    """A step the device is at, or has done; ``draw`` gives it the draws, where those had to wait for the step before to be taken in."""

    @property
    def draw(self) -> Callable[[], None]: ...

    @property
    def collect(self) -> Callable[[], BatchResult]: ...


class Launcher(Protocol):
    """What begins steps and does not wait for them; they are collected in the order they were launched in.

    ``decodes_beside``: whether finished pictures are left to be decoded beside the steps; else nothing may run ahead of a picture's last.
    """

    @property
    def decodes_beside(self) -> bool: ...

    def launch(self, batch: Batch) -> Launched: ...


@dataclass(slots=True)
class UnderWay:
    """A step that has been launched, or the error where it could not be. ``started``: when it began, or the one before it ended."""

    batch: Batch
    launched: Launched | Exception
    started: float


@dataclass(slots=True)
class Decoding:
    """A picture that is decoded beside the steps. ``num_tries``: how often that has been begun; ``is_under_way``: it has, and gone well."""

    late: LatePicture
    started: float
    num_tries: int = 0
    is_under_way: bool = False

    def take(self) -> Picture | None:
        """Return the picture, None while it is not there."""
        if not self.is_under_way:
            self.num_tries += 1
            self.late.begin()
            self.is_under_way = True
        return self.late.take()


@dataclass(slots=True)
class LongPass:
    """The pass under way, and when it began. ``has_given_way``: a step has been let through since its last bit; now it is its turn."""

    batch: Batch
    steps: DividedPass
    started: float
    has_given_way: bool = False


class Engine:
    """One scheduler, one runner, one link; a ``launcher`` where steps may run ahead."""

    def __init__(self, scheduler: Scheduler, runner: Executor, pool: PagePool, link: Link, launcher: Launcher | None = None) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._pool = pool
        self._link = link
        self._launcher = launcher
        self._num_steps = 0
        self._num_empty_in_a_row = 0
        self._phases = PhaseWatch(time.perf_counter)
        self._long: LongPass | None = None
        self._under_way: UnderWay | None = None
        self._decoding: dict[int, Decoding] = {}
        self._decoded_s = 0.0
        self.faults = NO_FAULTS
        """Where tests break the engine on purpose."""

    def run(self) -> None:
        """Serve until told to shut down."""
        while self._take_in(self._link.receive(self.patience_s)):
            self.step()

    @property
    def patience_s(self) -> float:
        """How long to wait for a message before the next step."""
        if not self._scheduler.has_work:
            return IDLE_WAIT_S
        return STUCK_WAIT_S if self._num_empty_in_a_row > 1 else 0.0

    def submit(self, message: Incoming) -> None:
        """Take in one message, as `run` does."""
        self._take_in([message])

    def _take_in(self, messages: list[Incoming]) -> bool:
        for message in messages:
            match message:
                case Request():
                    self._phases.arrived(message.request_id)
                    self._scheduler.submit(message)
                case Abort():
                    self._scheduler.abort(message.request_id)
                case Shutdown():
                    return False
        return True

    def step(self) -> StepReport | None:
        """Run one step and report it; None when nothing was done, or when a long pass goes on and there is nothing to say yet."""
        started = time.perf_counter()
        self._look_for_pictures()
        if self._under_way is not None:
            return self._land(self._under_way)
        if self._long is not None:
            return self._go_on(self._long)
        batch = self._scheduler.schedule()
        self._phases.look(self._scheduler.running)
        if batch.is_divisible:
            return self._begin_long(batch, started)
        if self._launcher is None or batch.is_empty:
            return self._run(batch, started)
        return self._land(_launch(self._launcher, batch, started))

    def _land(self, step: UnderWay) -> StepReport | None:
        """Begin the step after ``step`` if that can be foreseen; then collect, commit and report this one."""
        _draw(step)
        ahead = self._under_way = self._begin_ahead(step)
        result = self._collect(step)
        self._num_steps += 1
        self._num_empty_in_a_row = 0
        self._commit(step.batch, result)
        report = self._report(step.batch, result, step.started)
        if ahead is not None:
            ahead.started = time.perf_counter()
        return report

    def _begin_ahead(self, step: UnderWay) -> UnderWay | None:
        if self._launcher is None or isinstance(step.launched, Exception):
            return None
        if any(denoise.is_last for denoise in step.batch.denoises) and not self._launcher.decodes_beside:
            return None
        batch = self._scheduler.schedule_ahead(step.batch)
        return None if batch.is_empty else _launch(self._launcher, batch, step.started)

    def _collect(self, step: UnderWay) -> BatchResult:
        try:
            if isinstance(step.launched, Exception):
                raise step.launched
            return step.launched.collect()
        except Exception as error:
            return self._answer(error, self._scheduler.without_void(step.batch))

    def _begin_long(self, batch: Batch, started: float) -> StepReport | None:
        try:
            steps = self._runner.begin(batch)
        except Exception as error:
            return self._end_long(batch, self._answer(error, batch), started)
        self._long = LongPass(batch, steps, started)
        return self._go_on(self._long)

    def _end_long(self, batch: Batch, result: BatchResult, started: float) -> StepReport | None:
        self._long = None
        self._num_steps += 1
        self._commit(batch, result)
        return self._report(batch, result, started)

    def _go_on(self, long: LongPass) -> StepReport | None:
        """Let the step through that the scheduler asks for, or take the long pass further."""
        started = time.perf_counter()
        stands_aside = bool(long.batch.denoises) and self._scheduler.are_pictures_held
        if stands_aside or not long.has_given_way:
            between = self._scheduler.schedule_between(long.steps.next_bit_s or self._scheduler.bit_s(long.batch))
            long.has_given_way = not between.is_empty
            if long.has_given_way:
                return self._run(between, started)
        long.has_given_way = False
        result = self._advance(long)
        if result is None:
            return self._report(Batch(), BatchResult(), started)
        return self._end_long(long.batch, result, long.started)

    def _advance(self, long: LongPass) -> BatchResult | None:
        self._num_empty_in_a_row = 0
        try:
            return long.steps.result if long.steps.advance(self._scheduler.next_pause_s()) else None
        except Exception as error:
            return self._answer(error, long.batch)

    def _run(self, batch: Batch, started: float) -> StepReport | None:
        """Execute a batch to its end, commit and report it."""
        result = BatchResult()
        self._num_empty_in_a_row += 1
        if not batch.is_empty:
            self._num_steps += 1
            self._num_empty_in_a_row = 0
            result = self._execute(batch)
            self._commit(batch, result)
        return self._report(batch, result, started)

    def _commit(self, batch: Batch, result: BatchResult) -> None:
        """Take in what a step brought; end the sequences that cannot go on, where anybody still wants them, and those alone."""
        if result.broken or result.stopped:
            wanted = self._scheduler.without_void(batch).sequence_ids()
            for sequence_id, message in result.stopped.items():
                if sequence_id in wanted and sequence_id not in result.broken:
                    self._scheduler.fail([sequence_id], "form_too_complex", message)
            unsound = [sequence_id for sequence_id in result.broken if sequence_id in wanted]
            self._scheduler.forget(unsound)
            self._scheduler.fail(unsound, "server_error", "the model's numbers for this request are not finite")
        self._scheduler.commit(batch, result)
        now = time.perf_counter()
        for sequence_id, late in result.late.items():
            if self._scheduler.in_decoder.is_awaited(sequence_id):
                self._decoding[sequence_id] = Decoding(late, now)

    def _look_for_pictures(self) -> None:
        """Take in the pictures that have been decoded beside the steps, and begin to decode those that have been handed over."""
        for sequence_id, decoding in list(self._decoding.items()):
            if not decoding.is_under_way and not self._scheduler.in_decoder.is_awaited(sequence_id):
                self._leave_decoder(sequence_id, None)
                continue
            try:
                picture = decoding.take()
            except Exception as error:
                self._answer_decoder(error, sequence_id, decoding)
                continue
            if picture is not None:
                self._decoded_s = max(self._decoded_s, time.perf_counter() - decoding.started)
                self._leave_decoder(sequence_id, picture)

    def _answer_decoder(self, error: Exception, sequence_id: int, decoding: Decoding) -> None:
        """Answer that a picture could not be decoded: try once more in the next step, then end its sequence.

        Raises:
            Exception: the device is past all help; a new process can have it back.
        """
        if is_device_lost(error):
            raise error
        decoding.is_under_way = False
        if decoding.num_tries > 1:
            logger.error("a picture could not be decoded twice; its request is ended, the others go on", exc_info=error)
            self._scheduler.fail([sequence_id], "server_error", "the model failed on this request")
            self._leave_decoder(sequence_id, None)

    def _leave_decoder(self, sequence_id: int, picture: Picture | None) -> None:
        del self._decoding[sequence_id]
        self._scheduler.in_decoder.take_in(sequence_id, picture)

    def _report(self, batch: Batch, result: BatchResult, started: float) -> StepReport | None:
        """Tell what the step brought; nothing when there was nothing to do and nothing to say."""
        self._runner.forget(self._scheduler.take_dropped())
        outputs = self._scheduler.take_outputs()
        result.vae_s, self._decoded_s = max(result.vae_s, self._decoded_s), 0.0
        timelines = self._phases.after_step(outputs.images, outputs.finished, self._scheduler.running, result.vae_s)
        if batch.is_empty and outputs.are_empty:
            return None
        if outputs.finished:
            self.faults.before_end()
        stats = step_stats(self._num_steps, time.perf_counter() - started, batch, result, self._scheduler, self._pool)
        report = StepReport(
            outputs.tokens,
            outputs.closed,
            outputs.progress,
            outputs.images,
            outputs.finished,
            stats,
            timelines,
            outputs.previews,
            outputs.silent,
        )
        self._link.send(report)
        return report

    def _execute(self, batch: Batch) -> BatchResult:
        try:
            return self._runner.execute(batch)
        except Exception as error:
            return self._answer(error, batch)

    def _answer(self, error: Exception, batch: Batch) -> BatchResult:
        """Answer a step that raised: execute its halves, down to the sequence at fault, which is ended.

        Raises:
            Exception: the device is past all help; a new process can have it back.
        """
        if is_device_lost(error):
            raise error
        sequence_ids = batch.sequence_ids()
        if not sequence_ids:
            return BatchResult()
        if len(sequence_ids) == 1:
            return self._try_once_more(batch.restricted_to(set(sequence_ids)))
        result = BatchResult()
        middle = len(sequence_ids) // 2
        for half in (sequence_ids[:middle], sequence_ids[middle:]):
            result.take_in(self._execute(batch.restricted_to(set(half))))
        return result

    def _try_once_more(self, batch: Batch) -> BatchResult:
        """Execute the step of one sequence that raised: what does not happen again was not its fault."""
        try:
            return self._runner.execute(batch)
        except Exception:
            logger.exception("a step failed twice for one request; it is ended, the others go on")
            self._scheduler.fail(batch.sequence_ids(), "server_error", "the model failed on this request")
            return BatchResult()


def is_device_lost(error: Exception) -> bool:
    """Tell whether the device has faulted, so that nothing can be computed there any more."""
    message = str(error)
    return any(said in message for said in DEVICE_IS_LOST) and not any(status in message for status in ASKED_TOO_MUCH)


def _launch(launcher: Launcher, batch: Batch, started: float) -> UnderWay:
    try:
        return UnderWay(batch, launcher.launch(batch), started)
    except Exception as error:
        return UnderWay(batch, error, started)


def _draw(step: UnderWay) -> None:
    """Let the draws of ``step`` begin; what is wrong with them is wrong with the step."""
    if isinstance(step.launched, Exception):
        return
    try:
        step.launched.draw()
    except Exception as error:
        step.launched = error
