"""Has the grammars of answers made in processes of their own, so that no schema keeps the front busy for longer than it may."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

import msgspec

from server.errors import InvalidValue, Overloaded, PlaitError, UnsupportedParameter
from server.serving.asks import Ask
from server.serving.grammar_jobs import GrammarJob, GrammarResult
from server.serving.workers import AllBusy, CannotStart, JobFailed, TookTooLong, TooMuchWork, Workers

ERROR_BY_CODE: dict[str, type[PlaitError]] = {UnsupportedParameter.code: UnsupportedParameter}

MAX_OUTCOMES = 256
MAX_OUTCOME_CHARS = 1 << 24
"""Of all grammars that are kept together."""


class Outcomes:
    """What became of the latest jobs: a conversation asks for the same grammar in every turn.

    Each is its user's alone: how fast an answer begins must tell nobody what others ask for.
    """

    def __init__(self) -> None:
        self._by_key: OrderedDict[bytes, GrammarResult] = OrderedDict()
        self._num_chars = 0
        self._lock = threading.Lock()

    def find(self, key: bytes) -> GrammarResult | None:
        """Return what became of a job; None if that is not known, or no longer."""
        with self._lock:
            if key in self._by_key:
                self._by_key.move_to_end(key)
            return self._by_key.get(key)

    def keep(self, key: bytes, result: GrammarResult) -> None:
        """Keep what became of a job, and forget those asked for longest ago beyond the bounds."""
        with self._lock:
            if key in self._by_key:
                return
            self._by_key[key] = result
            self._num_chars += _num_chars(result)
            while len(self._by_key) > MAX_OUTCOMES or self._num_chars > MAX_OUTCOME_CHARS:
                self._num_chars -= _num_chars(self._by_key.popitem(last=False)[1])


def _num_chars(result: GrammarResult) -> int:
    return len(result.grammar or "")


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

    def grammar(self, ask: Ask) -> str | None:
        """Return the grammar that an ask holds its answer to; see `server.serving.grammars.answer_grammar`.

        Raises:
            InvalidValue, UnsupportedParameter: a schema that answers cannot be held to, or not in the time there is.
            Overloaded: every writer is busy, or the machine is, or no writer can be started.
        """
        if ask.text_form is None and ask.tool_use is None:
            return None
        result = self._result(ask, GrammarJob.of(ask))
        if result.code is not None:
            raise ERROR_BY_CODE.get(result.code, InvalidValue)(result.message, result.param)
        return result.grammar

    def close(self) -> None:
        """End the writers that are free; one that is busy ends after its schema."""
        self._workers.close()

    def _result(self, ask: Ask, job: GrammarJob) -> GrammarResult:
        key = _key(ask, job)
        result = self._outcomes.find(key)
        if result is not None:
            return result
        try:
            result = self._workers.run(job)
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
