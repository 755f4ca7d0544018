"""Has the grammars of answers made in processes of their own, so that no schema keeps the front busy for longer than it may."""

from __future__ import annotations

from server.errors import InvalidValue, Overloaded, PlaitError, UnsupportedParameter
from server.serving.asks import Ask
from server.serving.grammar_jobs import GrammarJob, GrammarResult
from server.serving.workers import AllBusy, CannotStart, JobFailed, TookTooLong, Workers

ERROR_BY_CODE: dict[str, type[PlaitError]] = {UnsupportedParameter.code: UnsupportedParameter}


class GrammarWriters:
    """Up to ``num_writers`` processes. ``timeout_s``: seconds after which the machine is too busy for the schemas of a request, whose own
    bound is processor time (`server.serving.grammar_writer`); ``wait_s``: that a request waits for a writer."""

    def __init__(self, num_writers: int = 2, timeout_s: float = 20.0, wait_s: float = 2.0) -> None:
        self._workers: Workers[GrammarJob, GrammarResult] = Workers(
            "server.serving.grammar_writer", GrammarResult, num_writers, timeout_s, wait_s
        )

    def grammar(self, ask: Ask) -> str | None:
        """Return the grammar that an ask holds its answer to; see `server.serving.grammars.answer_grammar`.

        Raises:
            InvalidValue, UnsupportedParameter: a schema that answers cannot be held to, or not in the time there is.
            Overloaded: every writer is busy, or the machine is, or no writer can be started.
        """
        if ask.text_form is None and ask.tool_use is None:
            return None
        try:
            result = self._workers.run(GrammarJob.of(ask))
        except (AllBusy, TookTooLong) as error:
            raise Overloaded("Too many forms of answers are being read at the moment. Try again shortly.") from error
        except CannotStart as error:
            raise Overloaded("Forms of answers cannot be read at the moment. Try again shortly.") from error
        except JobFailed as error:
            param = "tools" if ask.text_form is None else ask.text_form.param
            raise InvalidValue(f"{param}: too complex; simplify its patterns, counts or alternatives.", param) from error
        if result.code is not None:
            raise ERROR_BY_CODE.get(result.code, InvalidValue)(result.message, result.param)
        return result.grammar

    def close(self) -> None:
        """End the writers that are free; one that is busy ends after its schema."""
        self._workers.close()
