"""How far a long pass runs ahead of a device that works by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from model.stepwise import Steps
from server.engine import long_pass
from server.engine.batch import BatchResult
from server.engine.bit_pace import BitPace
from server.engine.long_pass import Pass
from server.engine.queued_bits import MOST_QUEUED, QueuedBits

BIT_S = 1.0
HOST_S = 0.01
"""What the host takes to give the device a bit."""


class Device:
    """Works by itself through what it is given, on a clock that only waiting and the host's own work move."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.free_s = 0.0
        """When it is done with all that it has."""
        self.most_queued = 0

    def take(self, seconds: float) -> None:
        self.free_s = max(self.free_s, self.now_s) + seconds
        self.most_queued = max(self.most_queued, round((self.free_s - self.now_s) / BIT_S))

    def mark(self) -> End:
        return End(self, self.free_s)

    def monotonic(self) -> float:
        return self.now_s


@dataclass(frozen=True)
class End:
    device: Device
    at_s: float

    def query(self) -> bool:
        return self.device.now_s >= self.at_s

    def synchronize(self) -> None:
        self.device.now_s = max(self.device.now_s, self.at_s)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    device = Device()
    monkeypatch.setattr(long_pass, "time", device)
    yield device


def a_pass(device: Device, num_bits: int, pace: BitPace) -> Pass:
    def steps() -> Steps[BatchResult]:
        for _ in range(num_bits):
            device.now_s += HOST_S
            device.take(BIT_S)
            yield
        device.mark().synchronize()
        return BatchResult()

    return Pass(steps(), pace, QueuedBits(device.mark))


def test_the_device_is_given_no_more_than_it_needs_to_go_on(device: Device) -> None:
    assert a_pass(device, 50, BitPace()).advance(until_s=1000.0)
    assert device.most_queued == MOST_QUEUED + 1, "the one whose end is waited for included"


def test_the_device_never_waits_for_the_host(device: Device) -> None:
    a_pass(device, 50, BitPace()).advance(until_s=1000.0)
    assert device.now_s == pytest.approx(50 * BIT_S + HOST_S)


def test_who_is_let_through_is_served_in_time(device: Device) -> None:
    """All bits were given to the device within a moment, and a token that was due meanwhile waited for all of them."""
    divided = a_pass(device, 100, BitPace())
    divided.advance(until_s=20.0)
    for due_s in (40.0, 60.0, 80.0):
        assert not divided.advance(until_s=due_s)
        assert due_s - 2.0 * BIT_S < device.free_s <= due_s + 2 * HOST_S


def test_a_bit_is_taken_to_be_as_long_as_the_device_takes(device: Device) -> None:
    pace = BitPace()
    a_pass(device, 50, pace).advance(until_s=1000.0)
    assert pace.next_s == pytest.approx(BIT_S, rel=0.05)


def test_a_pass_that_is_left_leaves_the_device_one_bit(device: Device) -> None:
    """The host makes the next step while the device is at it, and what that step takes is hardly more than it would alone."""
    divided = a_pass(device, 100, BitPace())
    divided.advance(until_s=20.0)
    assert HOST_S < device.free_s - device.now_s <= BIT_S


def test_the_next_bit_comes_after_those_that_were_given_before(device: Device) -> None:
    pace = BitPace()
    divided = a_pass(device, 100, pace)
    divided.advance(until_s=20.0)
    assert divided.next_bit_s == pytest.approx(2 * pace.next_s)
    device.now_s = device.free_s
    assert divided.next_bit_s == pace.next_s


def test_a_host_that_computes_itself_marks_nothing() -> None:
    queued = QueuedBits(None)
    queued.add()
    queued.leave()
    assert queued.num_left == 0
