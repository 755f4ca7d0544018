"""Hands pictures to reader processes and takes back what the model needs of them; a reader that dies or dawdles costs one request."""

from __future__ import annotations

from model.config import BagelConfig
from server.errors import ImageTooLarge, InvalidImage, Overloaded, PlaitError
from server.messages import ImageSegment
from server.serving.interest import Interest
from server.serving.picture_files import PictureLimits
from server.serving.picture_jobs import PictureJob, PictureResult
from server.serving.workers import AllBusy, CannotStart, JobFailed, TookTooLong, Workers

ERROR_BY_CODE: dict[str, type[PlaitError]] = {InvalidImage.code: InvalidImage, ImageTooLarge.code: ImageTooLarge}


class PictureReaders:
    """Up to ``num_readers`` processes. ``timeout_s``: seconds that one picture may take, and that a request waits for a free reader."""

    def __init__(self, config: BagelConfig, limits: PictureLimits, num_readers: int = 2, timeout_s: float = 10.0) -> None:
        self._config = config
        self.limits = limits
        self._workers: Workers[PictureJob, PictureResult] = Workers(
            "server.serving.picture_reader", PictureResult, num_readers, timeout_s, wait_s=timeout_s
        )

    def read(self, encoded: bytes, param: str, interest: Interest, *, draws: bool) -> ImageSegment:
        """Return a picture file as the towers see it (spec 5.2: the VAE's only when pictures will be drawn), with its digests.

        They are worked out here, once for all answers that it is for: in the engine everybody would wait for that. What a reader says of
        them is not believed: a file may have got hold of it.

        Raises:
            InvalidImage, ImageTooLarge: not a picture that is read here.
            Overloaded: every reader is busy, or none can be started.
            NobodyWaits: for it any more.
        """
        if len(encoded) > self.limits.max_bytes:
            raise ImageTooLarge(f"{param}: the picture has more than {self.limits.max_bytes} bytes.", param)
        job = PictureJob(encoded, param, self.limits, self._config.vae_transform, self._config.vit_transform, draws)
        result = self._run(job, interest)
        if result.segment is not None:
            return ImageSegment(result.segment.vit, result.segment.vae).with_digests()
        if result.refusal is None:
            raise InvalidImage(f"{param}: the picture cannot be read.", param)
        raise ERROR_BY_CODE.get(result.refusal.code, InvalidImage)(result.refusal.message, param)

    def close(self) -> None:
        """End the readers that are free; one that is busy ends after its picture."""
        self._workers.close()

    def _run(self, job: PictureJob, interest: Interest) -> PictureResult:
        try:
            return self._workers.run(job, lambda: not interest.is_over)
        except AllBusy as error:
            raise Overloaded("Too many pictures are being read at the moment. Try again shortly.") from error
        except CannotStart as error:
            raise Overloaded("Pictures cannot be read at the moment. Try again shortly.") from error
        except (JobFailed, TookTooLong) as error:
            raise InvalidImage(f"{job.param}: the picture cannot be read.", job.param) from error
