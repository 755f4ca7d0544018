"""Has the grammars of answers made in processes of their own, so that no schema keeps the front busy for longer than it may."""

from __future__ import annotations

import hashlib
import threading

import msgspec

from server.errors import InvalidValue, Overloaded, PlaitError, UnsupportedParameter
from server.serving.asks import Ask
from server.serving.grammar_jobs import GrammarJob, GrammarResult
from server.serving.grammar_outcomes import Outcomes, Writing
from server.serving.interest import Interest
from server.serving.workers import AllBusy, CannotStart, JobFailed, TookTooLong, TooMuchWork, Workers

ERROR_BY_CODE: dict[str, type[PlaitError]] = {UnsupportedParameter.code: UnsupportedParameter}


def _key(ask: Ask, job: GrammarJob) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode((ask.tenant, ask.user, job))).digest()


class GrammarWriters:
    """Up to ``num_writers`` processes. ``timeout_s``: seconds after which the machine is too busy for the schemas of a request, whose own
    bound is processor time (`server.serving.grammar_writer`); ``wait_s``: that a request waits for a writer."""

    def __init__(self, num_writers: int = 2, timeout_s: float = 20.0, wait_s: float = 2.0) -> None:
        self._workers: Workers[GrammarJob, GrammarResult] = Workers(
            "server.serving.grammar_writer", GrammarResult, num_writers, timeout_s, wait_s
        )
        self._outcomes = Outcomes()
        self._under_way: dict[bytes, Writing] = {}
        self._lock = threading.Lock()

    def grammar(self, ask: Ask, interest: Interest) -> str | None:
        """Return the grammar that an ask holds its answer to; see `server.serving.grammars.answer_grammar`.

        Raises:
            InvalidValue, UnsupportedParameter: a schema that answers cannot be held to, or not in the time there is.
            Overloaded: every writer is busy, or the machine is, or no writer can be started.
            NobodyWaits: the ``interest`` in it is over.
        """
        if ask.text_form is None and ask.tool_use is None:
            return None
        result = self._result(ask, GrammarJob.of(ask), interest)
        if result.code is not None:
            raise ERROR_BY_CODE.get(result.code, InvalidValue)(result.message, result.param)
        return result.grammar

    def close(self) -> None:
        """End the writers that are free; one that is busy ends after its schema."""
        self._workers.close()

    def _result(self, ask: Ask, job: GrammarJob, interest: Interest) -> GrammarResult:
        """Find what becomes of a job, wait for it where it is being done, or have it done."""
        key = _key(ask, job)
        result: GrammarResult | None = None
        while result is None:
            with self._lock:
                result = self._outcomes.find(key)
                if result is not None:
                    return result
                writing = self._under_way.get(key)
                is_first = writing is None
                if writing is None:
                    writing = self._under_way[key] = Writing()
                writing.join(interest)
            result = self._written(key, writing, ask, job) if is_first else writing.awaited(interest)
        return result

    def _written(self, key: bytes, writing: Writing, ask: Ask, job: GrammarJob) -> GrammarResult:
        """Do a job for all who wait for it."""
        try:
            writing.outcome = self._worked_out(key, writing, ask, job)
            return writing.outcome
        except Overloaded as error:
            writing.outcome = error
            raise
        finally:
            with self._lock:
                del self._under_way[key]
            writing.end()

    def _worked_out(self, key: bytes, writing: Writing, ask: Ask, job: GrammarJob) -> GrammarResult:
        try:
            result = self._workers.run(job, writing.is_wanted)
        except (AllBusy, TookTooLong) as error:
            raise Overloaded("Too many forms of answers are being read at the moment. Try again shortly.") from error
        except CannotStart as error:
            raise Overloaded("Forms of answers cannot be read at the moment. Try again shortly.") from error
        except TooMuchWork:
            result = _too_complex(ask)
        except JobFailed:
            # Of what a writer died is not known; it need not have been the schema.
            return _too_complex(ask)
        self._outcomes.keep(key, result)
        return result


def _too_complex(ask: Ask) -> GrammarResult:
    """Return the refusal of all that the answer's form is made of."""
    places = [] if ask.text_form is None else [ask.text_form.param]
    places += [] if ask.tool_use is None else ["tools"]
    message = f"{' and '.join(places)}: too complex; simplify the patterns, counts or alternatives there."
    return GrammarResult(code=InvalidValue.code, message=message, param=places[0])
