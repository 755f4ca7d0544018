"""The same times as neither side measures them: from the packet with a request's head to the packet with the first words of its answer.

The kernel stamps the packets of the loopback interface and ``tcpdump`` writes them down (as root). What the server's own time lacks of
the wire's lies before its first look at a request and after its last at an answer; what the client's time has above it is the client's.
"""

from __future__ import annotations

import re
import statistics
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

GLOBAL_HEADER_BYTES, RECORD_HEADER_BYTES, ETHERNET_BYTES = 24, 16, 14
MICROSECONDS = 0xA1B2C3D4
"""The first word of a file whose stamps are in microseconds and whose machine wrote it with the least byte first."""

REQUEST = re.compile(rb"POST /v1/")
WORDS = re.compile(rb'content":"[^"]')


@dataclass(frozen=True, slots=True)
class Segment:
    """What one packet carried. ``client_port`` tells connections apart."""

    time_s: float
    client_port: int
    is_request: bool
    payload: bytes


@contextmanager
def captured(port: int, path: Path) -> Iterator[None]:
    """Write down what goes to and from a port of this machine while the block runs."""
    command = ["tcpdump", "-i", "lo", "-U", "-s", "1024", "-B", "65536", "-w", str(path), "tcp", "port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as capture:
        assert capture.stderr is not None
        if not any("listening on" in line for line in iter(capture.stderr.readline, "")):
            raise RuntimeError("tcpdump did not start; it must be installed and be run as root")
        try:
            yield
        finally:
            capture.terminate()
            capture.communicate(timeout=10)


def first_words_ms(capture: bytes, port: int) -> float:
    """Return the mean time in milliseconds from a request's head to its answer's first words."""
    asked: dict[int, float] = {}
    waits: list[float] = []
    for segment in segments(capture, port):
        if segment.is_request and REQUEST.match(segment.payload):
            asked[segment.client_port] = segment.time_s
        elif not segment.is_request and segment.client_port in asked and WORDS.search(segment.payload):
            waits.append(segment.time_s - asked.pop(segment.client_port))
    return 1000 * statistics.fmean(waits)


def segments(capture: bytes, port: int) -> Iterator[Segment]:
    """Read a capture of the loopback interface (the classic pcap format: Ethernet, IPv4, TCP), leaving out packets without a payload."""
    if struct.unpack_from("<I", capture)[0] != MICROSECONDS:
        raise ValueError("not a capture in the classic format with microseconds")
    place = GLOBAL_HEADER_BYTES
    while place < len(capture):
        seconds, microseconds, kept_bytes, _ = struct.unpack_from("<IIII", capture, place)
        packet = capture[place + RECORD_HEADER_BYTES + ETHERNET_BYTES : place + RECORD_HEADER_BYTES + kept_bytes]
        place += RECORD_HEADER_BYTES + kept_bytes
        tcp = packet[4 * (packet[0] & 0xF) :]
        source, destination = struct.unpack_from("!HH", tcp)
        if payload := tcp[4 * (tcp[12] >> 4) :]:
            is_request = destination == port
            yield Segment(seconds + microseconds / 1e6, source if is_request else destination, is_request, payload)
