"""Server, wire and client are compared by what each wrote down itself: histograms, a capture of packets, a report."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from loadtests.agreement.clients import Client, Load, Target, command, measured
from loadtests.agreement.server_times import Means, Totals
from loadtests.agreement.wire import first_words_ms
from server.metrics import FrontState, Metrics

SERVER, ONE, OTHER = 8000, 41000, 41002
ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
WORDS = b'data: {"choices":[{"delta":{"content":"It"}}]}\n\n'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Packet:
    """A TCP segment over IPv4 and Ethernet, as the loopback interface carries it."""

    time_ms: int
    source: int
    destination: int
    payload: bytes

    def record(self) -> bytes:
        tcp = struct.pack("!HHIIBBHHH", self.source, self.destination, 0, 0, 8 << 4, 0, 0, 0, 0) + bytes(12) + self.payload
        ip = bytes([0x45]) + bytes(19)
        frame = bytes(14) + ip + tcp
        return struct.pack("<IIII", self.time_ms // 1000, self.time_ms % 1000 * 1000, len(frame), len(frame)) + frame


def capture(*packets: Packet) -> bytes:
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    return header + b"".join(packet.record() for packet in packets)


def test_the_wire_counts_from_a_head_to_the_first_words_of_its_own_connection() -> None:
    seen = capture(
        Packet(1000, ONE, SERVER, HEAD),
        Packet(1001, ONE, SERVER, b'{"messages": []}'),
        Packet(1005, OTHER, SERVER, HEAD),
        Packet(1006, SERVER, ONE, ROLE),
        Packet(1007, SERVER, ONE, b""),
        Packet(1010, SERVER, ONE, WORDS),
        Packet(1012, SERVER, ONE, WORDS),
        Packet(1035, SERVER, OTHER, WORDS),
    )
    assert first_words_ms(seen, SERVER) == pytest.approx((10 + 30) / 2)


def test_a_connection_that_is_kept_asks_again() -> None:
    once = [Packet(1000, ONE, SERVER, HEAD), Packet(1004, SERVER, ONE, WORDS)]
    again = [Packet(2000, ONE, SERVER, HEAD), Packet(2008, SERVER, ONE, WORDS)]
    assert first_words_ms(capture(*once, *again), SERVER) == pytest.approx(6)


def test_only_what_came_after_is_counted() -> None:
    metrics = Metrics()
    state = FrontState(model_name="storybook", in_flight=0, is_ready=True, num_engine_starts=1, page_size=16, num_pages=10)
    metrics.first_token_seconds.observe(9.0)
    metrics.inter_token_seconds.observe(9.0)
    before = Totals.parse(metrics.exposition(state).decode())
    for seconds in (0.1, 0.3):
        metrics.first_token_seconds.observe(seconds)
    metrics.inter_token_seconds.observe(0.004)
    means = Totals.parse(metrics.exposition(state).decode()).means_since(before)
    assert means.first_token_ms == pytest.approx(200)
    assert means.inter_token_ms == pytest.approx(4)


REPORTS = {
    Client.AIPERF: ("profile_export_aiperf.json", {"time_to_first_token": {"avg": 12.5}, "inter_token_latency": {"avg": 3.0}}),
    Client.GUIDELLM: (
        "guidellm.json",
        {
            "benchmarks": [
                {
                    "metrics": {
                        "time_to_first_token_ms": {"successful": {"mean": 12.5}},
                        "inter_token_latency_ms": {"successful": {"mean": 3.0}},
                    }
                }
            ]
        },
    ),
}


@pytest.mark.parametrize("client", Client)
def test_a_client_asks_as_told_and_its_report_is_read(client: Client, tmp_path: Path) -> None:
    name, report = REPORTS[client]
    (tmp_path / name).write_text(json.dumps(report), encoding="utf-8")
    asking = command(client, Path("program"), Load(30, 2, 1500, 100), Target("http://127.0.0.1:8000", tmp_path), tmp_path)
    assert asking[0] == "program" and tmp_path.name in " ".join(asking) and "1500" in " ".join(asking)
    assert measured(client, tmp_path) == Means(12.5, 3.0)
