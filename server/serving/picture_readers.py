"""Hands pictures to reader processes and takes back what the model needs of them; a reader that dies or dawdles costs one request.

Readers are started when first needed and kept. Called from the threads in which requests are prepared.
"""

from __future__ import annotations

import logging
import queue
import socket
import subprocess
import time

from model.config import BagelConfig
from server.errors import ImageTooLarge, InvalidImage, Overloaded, PlaitError
from server.messages import ImageSegment
from server.serving.installation import python_command
from server.serving.picture_files import PictureLimits
from server.serving.picture_jobs import EndOfStream, PictureJob, PictureResult, receive_message, send_message

logger = logging.getLogger(__name__)

READER_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}
"""All that a reader sees of the environment: no secrets."""

ERROR_BY_CODE: dict[str, type[PlaitError]] = {InvalidImage.code: InvalidImage, ImageTooLarge.code: ImageTooLarge}


class PictureReaders:
    """Up to ``num_readers`` processes. ``timeout_s``: seconds that one picture may take, and that a request waits for a free reader."""

    def __init__(self, config: BagelConfig, limits: PictureLimits, num_readers: int = 2, timeout_s: float = 10.0) -> None:
        self._config = config
        self.limits = limits
        self._timeout_s = timeout_s
        self._free: queue.LifoQueue[_Reader | None] = queue.LifoQueue()
        for _ in range(num_readers):
            self._free.put(None)

    def read(self, encoded: bytes, param: str, *, draws: bool) -> ImageSegment:
        """Return a picture file as the towers see it (spec 5.2: the VAE's only when pictures will be drawn).

        Raises:
            InvalidImage, ImageTooLarge: not a picture that is read here.
            Overloaded: every reader is busy.
        """
        if len(encoded) > self.limits.max_bytes:
            raise ImageTooLarge(f"{param}: the picture has more than {self.limits.max_bytes} bytes.", param)
        job = PictureJob(encoded, param, self.limits, self._config.vae_transform, self._config.vit_transform, draws)
        result = self._run(job)
        if result.segment is not None:
            return result.segment
        if result.refusal is None:
            raise InvalidImage(f"{param}: the picture cannot be read.", param)
        raise ERROR_BY_CODE.get(result.refusal.code, InvalidImage)(result.refusal.message, param)

    def close(self) -> None:
        """End the readers that are free; one that is busy ends after its picture."""
        while not self._free.empty():
            reader = self._free.get()
            if reader is not None:
                reader.close()

    def _run(self, job: PictureJob) -> PictureResult:
        try:
            reader = self._free.get(timeout=self._timeout_s)
        except queue.Empty as error:
            raise Overloaded("Too many pictures are being read at the moment. Try again shortly.") from error
        try:
            if reader is None or not reader.is_alive:
                reader = _Reader()
            result = reader.run(job, self._timeout_s)
        except (EndOfStream, OSError) as error:
            # TimeoutError is an OSError: a picture that takes too long ends its reader like one that breaks it.
            if reader is not None:
                reader.close()
            reader = None
            logger.warning("a picture ended its reader: %s", type(error).__name__)
            raise InvalidImage(f"{job.param}: the picture cannot be read.", job.param) from error
        finally:
            self._free.put(reader)
        return result


class _Reader:
    """One process and our end of its socket."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                python_command("server.serving.picture_reader", []),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=READER_ENVIRONMENT,
                start_new_session=True,
            )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def run(self, job: PictureJob, timeout_s: float) -> PictureResult:
        started = time.monotonic()
        self._connection.settimeout(timeout_s)
        send_message(self._connection, job)
        return receive_message(self._connection, PictureResult, max(1e-3, started + timeout_s - time.monotonic()))

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()
