"""Messages between the front and its worker processes: msgpack over a socket pair, each with its length in front."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

LENGTH = struct.Struct(">Q")
MAX_MESSAGE_BYTES = 1 << 30
"""More than any job or result has: a worker gone mad cannot make the front allocate without end."""

MessageT = TypeVar("MessageT")


class EndOfStream(Exception):
    """The other side has closed the socket or said something that is no message."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a worker says first: from here on its time is that of jobs."""


def serve_jobs(kind: type[MessageT], answer: Callable[[MessageT], object]) -> None:
    """Answer jobs of ``kind`` on the socket that is standard input, until it closes."""
    with socket.socket(fileno=sys.stdin.fileno()) as connection, contextlib.suppress(EndOfStream, ConnectionError):
        send_message(connection, Ready())
        while True:
            send_message(connection, answer(receive_message(connection, kind)))


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
