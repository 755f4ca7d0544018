"""The process that makes grammars of clients' schemas, where one of a few words can take minutes: it can be ended.

Started by `server.serving.grammar_writers` with an empty environment and one socket. Before the first schema it gives up whatever that
does not need (`server.serving.confinement`).
"""

from __future__ import annotations

from server.errors import PlaitError
from server.serving.confinement import give_up_everything_else
from server.serving.grammar_jobs import GrammarJob, GrammarResult
from server.serving.grammars import answer_grammar
from server.serving.worker_messages import serve_jobs

MEMORY_BYTES = 512 << 20
"""Address space: the interpreter and its libraries, and the automata of a schema that is not refused."""

WORK_S = 2.0
"""Processor time that the schemas of one request may take. Compiling a grammar takes the engine about as long as making it takes here, so
this bounds that too."""


def main() -> None:
    """Serve the socket on standard input until it closes."""
    give_up_everything_else(MEMORY_BYTES, has_threads=True)
    serve_jobs(GrammarJob, answer, WORK_S)


def answer(job: GrammarJob) -> GrammarResult:
    """Make the grammar of one ask, or say why not."""
    try:
        return GrammarResult(answer_grammar(job.ask()))
    except PlaitError as error:
        return GrammarResult(code=error.code, message=error.message, param=error.param)
