"""Messages between the front and its worker processes: msgpack over a socket pair, each with its length in front."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from server.time_slices import take_long_slices

LENGTH = struct.Struct(">Q")
MAX_MESSAGE_BYTES = 1 << 30
"""More than any job or result has: a worker gone mad cannot make the front allocate without end."""

MessageT = TypeVar("MessageT")


class EndOfStream(Exception):
    """The other side has closed the socket or said something that is no message."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a worker says first: from here on its time is that of jobs."""


def serve_jobs(kind: type[MessageT], answer: Callable[[MessageT], object], work_s: float | None = None) -> None:
    """Answer jobs of ``kind`` on the socket that is standard input, until it closes, or until one takes ``work_s`` of processor time.

    Whoever waits for a front's words comes before a job.
    """
    take_long_slices()
    with socket.socket(fileno=sys.stdin.fileno()) as connection, contextlib.suppress(EndOfStream, ConnectionError):
        send_message(connection, Ready())
        while True:
            job = receive_message(connection, kind)
            with _ended_after(work_s):
                result = answer(job)
            send_message(connection, result)


@contextlib.contextmanager
def _ended_after(work_s: float | None) -> Iterator[None]:
    """Have the kernel end this process, with SIGPROF, if the block takes longer: of processor time, on all threads together.

    A bound on the process's own time (RLIMIT_CPU) would do the same, but in whole seconds, and with a memory dump where those are on.
    """
    signal.setitimer(signal.ITIMER_PROF, work_s or 0.0)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0.0)


def send_message(connection: socket.socket, message: object) -> None:
    """Write one message; blocks as long as the socket's timeout allows."""
    body = msgspec.msgpack.encode(message)
    connection.sendall(LENGTH.pack(len(body)) + body)


def receive_message(connection: socket.socket, kind: type[MessageT], timeout_s: float | None = None) -> MessageT:
    """Read one message of ``kind``.

    Raises:
        EndOfStream: closed, or not such a message.
        TimeoutError: it took longer than ``timeout_s`` seconds.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size, deadline))
    if length > MAX_MESSAGE_BYTES:
        raise EndOfStream
    try:
        return msgspec.msgpack.decode(_exactly(connection, length, deadline), type=kind)
    except msgspec.DecodeError as error:
        raise EndOfStream from error


def _exactly(connection: socket.socket, num_bytes: int, deadline: float | None) -> bytes:
    buffer = bytearray(num_bytes)
    view, done = memoryview(buffer), 0
    while done < num_bytes:
        if deadline is not None:
            connection.settimeout(max(1e-3, deadline - time.monotonic()))
        received = connection.recv_into(view[done:])
        if received == 0:
            raise EndOfStream
        done += received
    return bytes(buffer)
