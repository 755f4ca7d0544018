"""The process that reads pictures from outside: it can do nothing else, so a decoder's bug is worth little to whoever finds one.

Started by `server.serving.picture_readers` with an empty environment and one socket. Before the first picture it gives up new file
descriptors (no file can be opened, no connection made), new processes, written files, core dumps, new privileges, and memory beyond
what the largest allowed picture needs.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import socket
import sys

import numpy as np
from PIL import Image

from model.transforms import resize
from server.errors import PlaitError
from server.messages import ImageSegment, Picture
from server.serving.picture_files import decode_picture
from server.serving.picture_jobs import EndOfStream, PictureJob, PictureResult, Refusal, receive_message, send_message
from server.time_slices import take_long_slices

MEMORY_BYTES = 2 << 30
"""Address space: the interpreter and its libraries, and about eight times the pixels of the largest picture that is read by default."""

PR_SET_NO_NEW_PRIVS = 38
"""From linux/prctl.h."""


def main() -> None:
    """Serve the socket on standard input until it closes."""
    take_long_slices()
    Image.init()
    _give_up_everything_else()
    with socket.socket(fileno=sys.stdin.fileno()) as connection, contextlib.suppress(EndOfStream, ConnectionError):
        while True:
            send_message(connection, answer(receive_message(connection, PictureJob)))


def answer(job: PictureJob) -> PictureResult:
    """Read one picture, or say why not."""
    try:
        image = decode_picture(job.encoded, job.param, job.limits)
        vae = resize(image, job.vae_transform)
        vit = resize(vae, job.vit_transform)
        return PictureResult(segment=ImageSegment(vit=_pixels(vit), vae=_pixels(vae) if job.draws else None))
    except MemoryError:
        return PictureResult(refusal=Refusal("image_too_large", f"{job.param}: the picture needs more memory than one may take."))
    except PlaitError as error:
        return PictureResult(refusal=Refusal(error.code, error.message))


def _pixels(image: Image.Image) -> Picture:
    return Picture(height=image.height, width=image.width, rgb=np.asarray(image, dtype=np.uint8).tobytes())


def _give_up_everything_else() -> None:
    num_open = sys.stderr.fileno() + 1
    for limit, bound in (
        (resource.RLIMIT_NOFILE, num_open),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, MEMORY_BYTES),
    ):
        resource.setrlimit(limit, (bound, bound))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
