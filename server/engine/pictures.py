"""Pictures in and out of the model: 8-bit pixels to ViT embeddings and clean latents, and decoded pixels back to 8 bits.

Encodings are kept for a while, least recently used first out, because a guidance context may need the picture the full context has
just taken in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from PIL import Image

from kernels.side_stream import Arriving, SideStream
from model.bagel import Bagel
from model.latents import patchify, pixels_from_u8, vit_patches, vit_position_ids
from model.stepwise import Steps
from model.transforms import HasTransforms, Pixels, vae_and_vit
from server.engine.segments import VaeImage, VitImage
from server.messages import ImageSegment, Picture

MAX_KEPT_BYTES = 256 << 20


class PictureEncoder:
    """Encodes pictures one by one (group norm must not see another picture, spec 4.3) and keeps the latest results by their digest."""

    def __init__(self, model: Bagel, device: torch.device, max_kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self._model = model
        self._device = device
        self._max_kept_bytes = max_kept_bytes
        self._kept: OrderedDict[tuple[str, bytes], torch.Tensor] = OrderedDict()
        self._kept_bytes = 0
        self.num_encoded = 0

    def clean_latents(self, image: VaeImage) -> Steps[torch.Tensor]:
        """Return the scaled mean latents of a picture: float32 ``[num_tokens, channels]``."""
        return self._remember("vae", image, self._encode_vae)

    def vit_embeddings(self, images: list[VitImage]) -> Steps[torch.Tensor]:
        """Return the understanding expert's embeddings of the pictures' patches, joined: ``[num_patches, hidden]``."""
        embedded = []
        for image in images:
            embedded.append((yield from self._remember("vit", image, self._encode_vit)))
        return torch.cat(embedded)

    def _remember(self, kind: str, image: VaeImage | VitImage, encode: Callable[[Picture], Steps[torch.Tensor]]) -> Steps[torch.Tensor]:
        key = (kind, image.digest)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        encoded = yield from encode(image.picture)
        self.num_encoded += 1
        if key not in self._kept:
            self._kept[key] = encoded
            self._kept_bytes += encoded.nbytes
        while self._kept_bytes > self._max_kept_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.nbytes
        return encoded

    def _pixels(self, picture: Picture) -> torch.Tensor:
        u8 = torch.frombuffer(bytearray(picture.rgb), dtype=torch.uint8).view(picture.height, picture.width, 3)
        return pixels_from_u8(u8.to(self._device))

    def _encode_vae(self, picture: Picture) -> Steps[torch.Tensor]:
        latent = yield from self._model.vae.encode_in_steps(self._pixels(picture))
        return patchify(latent[0], self._model.config.latent_patch_size).float()

    def _encode_vit(self, picture: Picture) -> Steps[torch.Tensor]:
        config = self._model.config
        patches = vit_patches(self._pixels(picture), config.vit.patch_size)
        grid = (picture.height // config.vit.patch_size, picture.width // config.vit.patch_size)
        position_ids = vit_position_ids(*grid, config.vit.table_side).to(self._device)
        cu_seqlens = torch.tensor([0, len(patches)], dtype=torch.int32)
        return (yield from self._model.embed_vit_in_steps(patches, position_ids, cu_seqlens))


class DecodedBeside:
    """A picture whose ``latents`` are done, on its way to the host by a side stream once that has begun; see `LatePicture`."""

    def __init__(self, side: SideStream, decode: Callable[[torch.Tensor], torch.Tensor], latents: torch.Tensor) -> None:
        self._side = side
        self._decode = decode
        self._latents = latents
        self._arriving: Arriving | None = None

    def begin(self) -> None:
        with torch.inference_mode():
            self._arriving = self._side.begin(self._decode, self._latents)

    def take(self) -> Picture | None:
        u8 = None if self._arriving is None else self._arriving.take()
        return None if u8 is None else picture_from_u8(u8)


def picture_from_u8(u8: torch.Tensor) -> Picture:
    """Make a picture of 8-bit pixels ``[height, width, 3]``. Waits for the device."""
    return Picture(u8.shape[0], u8.shape[1], u8.cpu().numpy().tobytes())


def input_picture(picture: Picture, transforms: HasTransforms) -> ImageSegment:
    """Make a drawn picture an input picture, by the resizes every input picture goes through (spec 3.3)."""
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.rgb)
    vae, vit = vae_and_vit(image, transforms)
    return ImageSegment(vit=_picture(vit), vae=_picture(vae))


def _picture(pixels: Pixels) -> Picture:
    return Picture(pixels.shape[0], pixels.shape[1], pixels.tobytes())
