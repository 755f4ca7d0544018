"""The process that reads pictures from outside: it can do nothing else, so a decoder's bug is worth little to whoever finds one.

Started by `server.serving.picture_readers` with an empty environment and one socket. Before the first picture it gives up whatever that
does not need (`server.serving.confinement`).
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from model.transforms import resize
from server.errors import PlaitError
from server.messages import ImageSegment, Picture
from server.serving.confinement import give_up_everything_else
from server.serving.picture_files import decode_picture
from server.serving.picture_jobs import PictureJob, PictureResult, Refusal
from server.serving.worker_messages import serve_jobs

MEMORY_BYTES = 2 << 30
"""Address space: the interpreter and its libraries, and about eight times the pixels of the largest picture that is read by default."""


def main() -> None:
    """Serve the socket on standard input until it closes."""
    Image.init()
    give_up_everything_else(MEMORY_BYTES, has_threads=False)
    serve_jobs(PictureJob, answer)


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
