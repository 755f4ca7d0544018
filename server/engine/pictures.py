"""Pictures in and out of the model: 8-bit pixels to ViT embeddings and clean latents, and decoded pixels back to 8 bits.

Encodings are kept for a while, least recently used first out, because a guidance context may need the picture the full context has
just taken in.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from threading import Lock

import torch
from PIL import Image

from kernels.readback import send_to_host
from kernels.side_stream import Arriving, SideStream
from kernels.upload import upload_tensor
from model.bagel import Bagel
from model.latents import grid_position_ids, patchify, pixels_from_u8, vit_patches
from model.stepwise import Steps, run_through
from model.transforms import HasTransforms, Pixels, vae_and_vit
from server.engine.segments import PictureKey, PictureSegment, VaeImage, VitImage
from server.messages import ImageSegment, Picture

logger = logging.getLogger(__name__)

MAX_KEPT_BYTES = 256 << 20


class PictureEncoder:
    """Encodes pictures one by one (group norm must not see another picture, spec 4.3) and keeps the latest results by their digest."""

    def __init__(self, model: Bagel, device: torch.device, max_kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self._model = model
        self._device = device
        self._max_kept_bytes = max_kept_bytes
        self._kept: OrderedDict[PictureKey, torch.Tensor] = OrderedDict()
        self._kept_bytes = 0
        self._num_encoded = 0
        self._lock = Lock()
        """Steps and a pass beside them may encode at the same time."""

    def take_num_encoded(self) -> int:
        """Return how many pictures have been encoded since the last call."""
        with self._lock:
            num, self._num_encoded = self._num_encoded, 0
        return num

    def clean_latents(self, image: VaeImage) -> Steps[torch.Tensor]:
        """Return the scaled mean latents of a picture: float32 ``[num_tokens, channels]``."""
        return self._remember(image)

    def vit_embeddings(self, images: list[VitImage]) -> Steps[torch.Tensor]:
        """Return the understanding expert's embeddings of the pictures' patches, joined: ``[num_patches, hidden]``."""
        embedded = []
        for image in images:
            embedded.append((yield from self._remember(image)))
        return torch.cat(embedded)

    def begin(self, image: PictureSegment, side: SideStream) -> Callable[[], bool]:
        """Begin to encode a picture on ``side``; return what tells whether it is kept by now, or could not be begun.

        Then the step that needs it encodes it, and meets whatever was the matter.
        """
        if image.key in self._kept:
            return lambda: True
        try:
            with torch.inference_mode():
                arriving = side.begin(lambda u8: run_through(self._encode(image, u8)), _u8_of(image.picture))
        except RuntimeError:
            logger.warning("a picture could not be encoded beside the steps", exc_info=True)
            return lambda: True
        return partial(self._has_arrived, image.key, arriving)

    def _has_arrived(self, key: PictureKey, arriving: Arriving) -> bool:
        encoded = arriving.take()
        if encoded is None:
            return False
        self._keep(key, encoded)
        return True

    def _remember(self, image: PictureSegment) -> Steps[torch.Tensor]:
        key = image.key
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        encoded = yield from self._encode(image, _u8_of(image.picture))
        self._keep(key, encoded)
        return encoded

    def _keep(self, key: PictureKey, encoded: torch.Tensor) -> None:
        with self._lock:
            self._num_encoded += 1
            if key not in self._kept:
                self._kept[key] = encoded
                self._kept_bytes += encoded.nbytes
            while self._kept_bytes > self._max_kept_bytes and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._kept_bytes -= dropped.nbytes

    def _encode(self, image: PictureSegment, u8: torch.Tensor) -> Steps[torch.Tensor]:
        """Encode a picture's 8-bit pixels ``[height, width, 3]``, which are on the host."""
        pixels = pixels_from_u8(upload_tensor(u8, self._device))
        return (yield from self._encode_vae(pixels) if isinstance(image, VaeImage) else self._encode_vit(pixels))

    def _encode_vae(self, pixels: torch.Tensor) -> Steps[torch.Tensor]:
        latent = yield from self._model.vae.encode_in_steps(pixels)
        return patchify(latent[0], self._model.config.latent_patch_size).float()

    def _encode_vit(self, pixels: torch.Tensor) -> Steps[torch.Tensor]:
        config = self._model.config
        patches = vit_patches(pixels, config.vit.patch_size)
        grid = (pixels.shape[2] // config.vit.patch_size, pixels.shape[3] // config.vit.patch_size)
        position_ids = upload_tensor(grid_position_ids(*grid, config.vit.table_side), self._device)
        cu_seqlens = torch.tensor([0, len(patches)], dtype=torch.int32)
        return (yield from self._model.embed_vit_in_steps(patches, position_ids, cu_seqlens))


def _u8_of(picture: Picture) -> torch.Tensor:
    """Return a picture's pixels ``[height, width, 3]`` on the host."""
    return torch.frombuffer(bytearray(picture.rgb), dtype=torch.uint8).view(picture.height, picture.width, 3)


class DecodedBeside:
    """A picture whose ``latents`` are done, on its way to the host by a side stream once that has begun; see `LatePicture`."""

    def __init__(self, side: SideStream, decode: Callable[[torch.Tensor], torch.Tensor], latents: torch.Tensor) -> None:
        self._side = side
        self._decode = decode
        self._latents = latents
        self._arriving: Arriving | None = None

    def begin(self) -> None:
        with torch.inference_mode():
            self._arriving = self._side.begin(lambda latents: send_to_host(self._decode(latents)), self._latents)

    def take(self) -> Picture | None:
        u8 = None if self._arriving is None else self._arriving.take()
        return None if u8 is None else picture_from_u8(u8)


def picture_from_u8(u8: torch.Tensor) -> Picture:
    """Make a picture of 8-bit pixels ``[height, width, 3]``. Waits for the device where they are there."""
    return Picture(u8.shape[0], u8.shape[1], u8.cpu().numpy().tobytes())


def input_picture(picture: Picture, transforms: HasTransforms) -> ImageSegment:
    """Make a drawn picture an input picture, by the resizes every input picture goes through (spec 3.3)."""
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.rgb)
    vae, vit = vae_and_vit(image, transforms)
    return ImageSegment(vit=_picture(vit), vae=_picture(vae))


def _picture(pixels: Pixels) -> Picture:
    return Picture(pixels.shape[0], pixels.shape[1], pixels.tobytes())
