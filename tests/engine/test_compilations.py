"""Grammars are compiled once for all who wait for them, and not at all for nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from server.engine.compilations import MAX_KEPT, MAX_KEPT_WORK_S, Compilation, Compilations
from tests.clock import Clock


@dataclass
class Compiler:
    """One thread that compiles nothing: it says what it was asked for, when it may. ``work_s``: what that takes by its clock."""

    may_go_on: threading.Event = field(default_factory=threading.Event)
    made: list[str] = field(default_factory=list)
    work_s: float = 0.0

    def __post_init__(self) -> None:
        self.thread = ThreadPoolExecutor(1)
        self.clock = Clock()
        self.compilations = Compilations(self.thread, self.compiled, self.clock)
        self.may_go_on.set()

    def compiled(self, source: str) -> str:
        self.made.append(source)
        assert self.may_go_on.wait(10)
        self.clock.now += self.work_s
        if source == "broken":
            raise ValueError(source)
        return source.upper()

    def come_and_go(self, *sources: str) -> None:
        """Have sources compiled, each for one answer that ends then."""
        for source in sources:
            compilation = self.compilations.join(source, "alice")
            compilation.compiled.exception()
            self.compilations.leave(compilation)

    def is_busy(self) -> Compilation[str]:
        """Begin a compilation that lasts until it may go on."""
        self.may_go_on.clear()
        return self.compilations.join("busy", "alice")


@pytest.fixture
def compiler() -> Iterator[Compiler]:
    compiler = Compiler()
    yield compiler
    compiler.may_go_on.set()
    compiler.thread.shutdown()


def test_answers_that_wait_for_the_same_grammar_have_it_from_one_compilation(compiler: Compiler) -> None:
    """It was compiled for each of the answers of a request."""
    compiler.is_busy()
    waiting = [compiler.compilations.join("form", "alice") for _ in range(4)]
    compiler.may_go_on.set()
    assert {one.compiled.result() for one in waiting} == {"FORM"}
    assert compiler.made == ["busy", "form"]


def test_a_grammar_asked_for_again_is_there(compiler: Compiler) -> None:
    compiler.come_and_go("form", "form")
    assert compiler.made == ["form"]


def test_what_was_compiled_for_one_account_serves_no_other(compiler: Compiler) -> None:
    """How fast an answer begins would tell what others ask for."""
    compiler.come_and_go("form")
    compiler.compilations.join("form", "bob").compiled.result()
    assert compiler.made == ["form", "form"]


def test_what_no_answer_waits_for_any_more_is_not_begun(compiler: Compiler) -> None:
    """It kept a compiler busy to the end: a client that came and went held up the answers of others."""
    compiler.is_busy()
    given_up = [compiler.compilations.join("form", "alice") for _ in range(2)]
    for compilation in given_up:
        compiler.compilations.leave(compilation)
    asked_for = compiler.compilations.join("other", "bob")
    compiler.may_go_on.set()
    assert asked_for.compiled.result() == "OTHER" and compiler.made == ["busy", "other"]
    with pytest.raises(CancelledError):
        given_up[0].compiled.result()


def test_what_one_of_several_answers_still_waits_for_is_made(compiler: Compiler) -> None:
    compiler.is_busy()
    given_up, waiting = (compiler.compilations.join("form", "alice") for _ in range(2))
    compiler.compilations.leave(given_up)
    compiler.may_go_on.set()
    assert waiting.compiled.result() == "FORM"


def test_what_had_begun_when_its_last_answer_left_serves_the_next(compiler: Compiler) -> None:
    compilation = compiler.is_busy()
    while not compiler.made:
        time.sleep(1e-3)
    compiler.compilations.leave(compilation)
    again = compiler.compilations.join("busy", "alice")
    compiler.may_go_on.set()
    assert again.compiled.result() == "BUSY" and compiler.made == ["busy"]


def test_what_was_given_up_before_it_began_is_made_for_the_next(compiler: Compiler) -> None:
    compiler.is_busy()
    compiler.compilations.leave(compiler.compilations.join("form", "alice"))
    again = compiler.compilations.join("form", "alice")
    compiler.may_go_on.set()
    assert again.compiled.result() == "FORM"


def test_what_failed_is_tried_again(compiler: Compiler) -> None:
    compiler.come_and_go("broken", "broken")
    assert compiler.made == ["broken", "broken"]


def test_the_grammars_left_longest_ago_are_forgotten_first(compiler: Compiler) -> None:
    sources = [str(number) for number in range(MAX_KEPT + 1)]
    compiler.come_and_go(*sources)
    compiler.made.clear()
    compiler.come_and_go(sources[1], sources[0])
    assert compiler.made == [sources[0]]


def test_of_grammars_that_take_long_fewer_are_kept(compiler: Compiler) -> None:
    """They are large."""
    compiler.work_s = MAX_KEPT_WORK_S / 4
    compiler.come_and_go(*"01234")
    compiler.made.clear()
    compiler.come_and_go(*"43210")
    assert compiler.made == ["0"]


def test_a_grammar_that_an_answer_needs_is_not_forgotten(compiler: Compiler) -> None:
    needed = compiler.compilations.join("needed", "alice")
    compiler.come_and_go(*map(str, range(MAX_KEPT + 1)))
    assert compiler.compilations.join("needed", "alice") is needed
