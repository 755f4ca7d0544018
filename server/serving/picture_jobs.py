"""What goes to the picture reader's process and what comes back: msgpack over a socket pair, each message with its length in front."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from model.sizes import ImageTransform
from server.messages import ImageSegment
from server.serving.picture_files import PictureLimits

LENGTH = struct.Struct(">Q")
MAX_MESSAGE_BYTES = 1 << 30
"""More than any job or result has: a reader gone mad cannot make the front allocate without end."""

MessageT = TypeVar("MessageT")


@dataclass(frozen=True, slots=True)
class PictureJob:
    """Read ``encoded``, resize it for the ViT and, when ``draws``, for the VAE too (spec 3.3, 5.2)."""

    encoded: bytes
    param: str
    limits: PictureLimits
    vae_transform: ImageTransform
    vit_transform: ImageTransform
    draws: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a picture is not read: the error's code, as in `server.errors`, and its message."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class PictureResult:
    """Exactly one of the two is there."""

    segment: ImageSegment | None = None
    refusal: Refusal | None = None


class EndOfStream(Exception):
    """The other side has closed the socket or said something that is no message."""


def send_message(connection: socket.socket, message: PictureJob | PictureResult) -> None:
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
