"""Who waits for an event to have gone out is told once: when a reader has handed it on, when the last one leaves, or when there is none."""

from __future__ import annotations

import pytest

from server.streams.readers import Readers

STREAM = "s"


class Told:
    """Counts how often it was told."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@pytest.fixture
def readers() -> Readers:
    """The readers of a stream that has one."""
    readers = Readers()
    readers.join(STREAM)
    return readers


def test_an_event_has_gone_out_when_a_reader_has_handed_it_on(readers: Readers) -> None:
    told = Told()
    readers.once_handed_on(STREAM, 3, told)
    readers.handed_on(STREAM, 2)
    readers.handed_on("another", 3)
    assert told.times == 0
    readers.handed_on(STREAM, 3)
    readers.handed_on(STREAM, 4)
    assert told.times == 1


def test_events_handed_on_together_have_all_gone_out(readers: Readers) -> None:
    first, second, third = Told(), Told(), Told()
    for sequence, told in ((1, first), (2, second), (3, third)):
        readers.once_handed_on(STREAM, sequence, told)
    readers.handed_on(STREAM, 2)
    assert (first.times, second.times, third.times) == (1, 1, 0)


def test_where_nobody_reads_nothing_is_waited_for() -> None:
    told = Told()
    Readers().once_handed_on(STREAM, 1, told)
    assert told.times == 1


def test_when_the_last_reader_leaves_nothing_is_waited_for_any_more(readers: Readers) -> None:
    told = Told()
    readers.join(STREAM)
    readers.once_handed_on(STREAM, 1, told)
    readers.leave(STREAM)
    assert told.times == 0
    readers.leave(STREAM)
    readers.join(STREAM)
    readers.handed_on(STREAM, 1)
    assert told.times == 1
