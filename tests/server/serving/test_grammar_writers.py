"""Grammars made in processes of their own: the same as anywhere, and no schema takes longer than it may."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import psutil
import pytest
from pydantic import JsonValue

from server.errors import InvalidValue, Overloaded, UnsupportedParameter
from server.serving.asks import Ask, ChoiceForm, JsonForm, PatternForm, Tool, ToolUse
from server.serving.grammar_writers import GrammarWriters
from server.serving.grammars import answer_grammar
from server.serving.interest import Interest, NobodyWaits
from server.serving.picture_files import PictureLimits
from server.serving.picture_readers import PictureReaders
from tests.server.picture_files import encoded_picture
from tests.server.running_front import golden_model
from tests.server.worker_processes import workers_running

PARAM = "response_format.json_schema.schema"
MINUTES: list[dict[str, JsonValue]] = [
    {"allOf": [{"type": "string", "pattern": f".*{letter}.{{5}}.*"} for letter in "abcdefghijklmnopqrst"]},
    {"type": "integer", "multipleOf": 10_000_019},
]
"""Schemas of a few words on which the library works for minutes."""


@pytest.fixture(scope="module")
def writers() -> Iterator[GrammarWriters]:
    writers = GrammarWriters(num_writers=1)
    yield writers
    writers.close()


def grammar(writers: GrammarWriters, ask: Ask) -> str | None:
    return writers.grammar(ask, Interest())


def json_ask(schema: dict[str, JsonValue]) -> Ask:
    return Ask([], text_form=JsonForm(schema, PARAM))


def test_a_grammar_is_that_of_the_ask(writers: GrammarWriters) -> None:
    tools = [Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}}, "tools[0].function.parameters")]
    for ask in (
        json_ask({"type": "object", "properties": {"ż": {"type": "integer"}}}),
        Ask([], thinks=True, tool_use=ToolUse(tools, must_call=False, is_parallel=True)),
        Ask([], text_form=ChoiceForm(["yes", "no"], "structured_outputs.choice")),
        Ask([], text_form=PatternForm("[a-z]{3}", "structured_outputs.regex")),
        Ask([], tool_use=ToolUse([Tool("stop", None, None, "tools[0]")], must_call=True, is_parallel=False)),
        Ask([], tool_use=ToolUse([replace(tools[0], name=f"look_{number}") for number in range(30)], must_call=False, is_parallel=True)),
    ):
        assert grammar(writers, ask) == answer_grammar(ask)
    assert grammar(writers, Ask([])) is None


def test_what_answers_cannot_be_held_to_is_refused_by_name(writers: GrammarWriters) -> None:
    with pytest.raises(UnsupportedParameter, match="'not' at its top") as caught:
        grammar(writers, json_ask({"not": {"type": "string"}}))
    assert caught.value.param == PARAM


@pytest.mark.parametrize("schema", MINUTES, ids=["patterns at once", "a large divisor"])
def test_a_schema_that_would_take_minutes_is_refused_and_the_next_one_read(writers: GrammarWriters, schema: dict[str, JsonValue]) -> None:
    """It kept a thread busy for that long: six of them, and no request at all was prepared any more."""
    with pytest.raises(InvalidValue, match="too complex") as caught:
        grammar(writers, json_ask(schema))
    assert caught.value.param == PARAM
    assert grammar(writers, json_ask({"type": "string"})) == answer_grammar(json_ask({"type": "string"}))


def only_writer() -> psutil.Process:
    """Return the latest writer of this process."""
    return workers_running("grammar_writer")[-1]


@pytest.mark.parametrize("is_busy", [False, True], ids=["between two schemas", "in the middle of one"])
def test_a_schema_whose_writer_is_killed_is_read_by_another(is_busy: bool) -> None:
    """It was called too complex, whatever had killed its writer."""
    writers = GrammarWriters(num_writers=1)
    assert grammar(writers, json_ask({"type": "string"}))
    writer = only_writer()
    if is_busy:
        writer.suspend()
        threading.Timer(0.2, writer.kill).start()
    else:
        writer.kill()
    assert grammar(writers, json_ask({"type": "integer"})) == answer_grammar(json_ask({"type": "integer"}))
    writers.close()


def test_a_machine_too_busy_for_a_schema_is_no_fault_of_the_schema_s() -> None:
    """Its bound was the clock's: beside a busy engine, plain schemas were called too complex."""
    writers = GrammarWriters(num_writers=1, timeout_s=0.5)
    assert grammar(writers, json_ask({"type": "string"}))
    only_writer().suspend()
    with pytest.raises(Overloaded, match="Try again"):
        grammar(writers, json_ask({"type": "integer"}))
    assert grammar(writers, json_ask({"type": "integer"}))
    writers.close()


@contextmanager
def no_new_files() -> Iterator[None]:
    """Let this process open nothing more, as where it has too many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_where_no_worker_can_be_started_the_client_may_ask_again(caplog: pytest.LogCaptureFixture) -> None:
    """Schemas were called too complex, and pictures broken."""
    writers, readers = GrammarWriters(), PictureReaders(golden_model().config, PictureLimits())
    picture = encoded_picture(8, 8, "PNG")
    with no_new_files():
        with pytest.raises(Overloaded, match="Try again"):
            grammar(writers, json_ask({"type": "string"}))
        with pytest.raises(Overloaded, match="Try again"):
            readers.read(picture, "image", Interest(), draws=False)
    assert caplog.text.count("cannot be started") == 2
    assert grammar(writers, json_ask({"type": "string"}))
    writers.close()


def test_what_a_writer_has_done_it_does_not_do_again() -> None:
    """Every turn of a conversation has the same tools, and one that was too complex cost its seconds again and again."""
    writers = GrammarWriters(num_writers=1)
    complex_ask, refused, ask = json_ask(MINUTES[1]), json_ask({"not": {}}), json_ask({"type": "string"})
    for _ in range(2):
        with pytest.raises(InvalidValue, match="too complex"):
            grammar(writers, complex_ask)
        with pytest.raises(UnsupportedParameter, match="'not'"):
            grammar(writers, refused)
        assert grammar(writers, ask) == answer_grammar(ask)
        only_writer().suspend()
    with pytest.raises(NobodyWaits):
        writers.grammar(ask.on_account("somebody else", 1.0), Interest(is_over=True))
    writers.close()


def test_where_tools_and_a_form_are_too_complex_together_both_are_named(writers: GrammarWriters) -> None:
    tools = [Tool("look", None, {"type": "object", "properties": {"at": MINUTES[1]}}, "tools[0].function.parameters")]
    ask = Ask([], text_form=JsonForm({"type": "string"}, PARAM), tool_use=ToolUse(tools, must_call=False, is_parallel=False))
    with pytest.raises(InvalidValue, match=f"{PARAM} and tools: too complex") as caught:
        grammar(writers, ask)
    assert caught.value.param == PARAM


def test_equal_schemas_at_the_same_time_are_read_once() -> None:
    """Each took a writer: of many equal requests at once, as programs send them, all but the first few were refused."""
    writers = GrammarWriters(num_writers=1, wait_s=0.1)
    assert grammar(writers, json_ask({"type": "string"}))
    only_writer().suspend()
    threading.Timer(0.5, only_writer().resume).start()
    with ThreadPoolExecutor(8) as pool:
        read = [pool.submit(grammar, writers, json_ask({"type": "integer"})) for _ in range(8)]
        assert {one.result() for one in read} == {answer_grammar(json_ask({"type": "integer"}))}
    writers.close()


def test_a_schema_that_nobody_waits_for_any_more_leaves_its_writer() -> None:
    """It kept it to its end, and whoever came and went often enough kept all of them."""
    writers, client = GrammarWriters(num_writers=1), Interest()
    assert grammar(writers, json_ask({"type": "string"}))
    only_writer().suspend()
    with ThreadPoolExecutor(1) as pool:
        given_up = pool.submit(writers.grammar, json_ask({"type": "integer"}), client)
        while not writers._workers._free.empty():
            time.sleep(1e-3)
        client.is_over = True
        assert grammar(writers, json_ask({"type": "boolean"}))
        with pytest.raises(NobodyWaits):
            given_up.result()
    writers.close()


def test_a_writer_at_work_when_all_are_closed_ends_after_its_schema() -> None:
    writers = GrammarWriters(num_writers=1)
    assert grammar(writers, json_ask({"type": "string"}))
    writer = only_writer()
    writer.suspend()
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(grammar, writers, json_ask({"type": "integer"}))
        while not writers._workers._free.empty():
            time.sleep(1e-3)
        writers.close()
        writer.resume()
        assert under_way.result() == answer_grammar(json_ask({"type": "integer"}))
    assert not psutil.pid_exists(writer.pid)


def test_a_schema_is_read_on_for_whoever_asked_for_the_same_meanwhile() -> None:
    writers, client = GrammarWriters(num_writers=1), Interest()
    assert grammar(writers, json_ask({"type": "string"}))
    only_writer().suspend()
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(writers.grammar, json_ask({"type": "integer"}), one) for one in (client, Interest())]
        client.is_over = True
        threading.Timer(0.5, only_writer().resume).start()
        assert asked[1].result() == answer_grammar(json_ask({"type": "integer"}))
    writers.close()
