"""The segments a context is made of: closed runs of text, ViT tokens or clean VAE tokens (spec 5.2).

A segment knows how many rows it adds to the KV cache and how far it moves the shared position; `uid` identifies it inside its sequence,
so that two contexts can be compared segment by segment, and a picture's `digest` says whether two requests hold the same one. No tensors
here: pictures are 8-bit pixels until the runner encodes them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from server.messages import Picture

NUM_MARKERS = 2
"""Begin-of-image and end-of-image, which every image segment carries."""


@dataclass(frozen=True, slots=True)
class TextTokens:
    """A closed text, BOS and EOS included. Divisible: it may be prefilled in several chunks."""

    uid: int
    token_ids: tuple[int, ...]
    is_thought: bool = False

    @property
    def num_rows(self) -> int:
        return len(self.token_ids)

    @property
    def num_positions(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class _ReadPicture:
    """What both ways of reading a picture have in common. Atomic: its rows see each other."""

    uid: int
    picture: Picture
    grid_height: int
    grid_width: int
    digest: bytes = b""

    @property
    def num_rows(self) -> int:
        return self.grid_height * self.grid_width + NUM_MARKERS

    @property
    def num_positions(self) -> int:
        return 1

    @property
    def key(self) -> PictureKey:
        """What pictures of the same pixels, read in the same way, have in common."""
        return type(self), self.digest


@dataclass(frozen=True, slots=True)
class VitImage(_ReadPicture):
    """A picture as the understanding expert reads it. Grid in patches."""


@dataclass(frozen=True, slots=True)
class VaeImage(_ReadPicture):
    """A clean picture as the generation expert reads it (timestep 0). Grid in latent tokens."""


PictureSegment = VitImage | VaeImage
PictureKey = tuple[type, bytes]


@dataclass(frozen=True, slots=True)
class DroppedImage:
    """An image segment left out of a guidance context whose family still counts its position (spec 8.4, last paragraph).

    Its `uid` is the negative of the picture's, so that no context takes it for the picture itself.
    """

    uid: int

    @property
    def num_rows(self) -> int:
        return 0

    @property
    def num_positions(self) -> int:
        return 1


ContextSegment = TextTokens | PictureSegment | DroppedImage
"""Anything a context can be built from."""


def scoped_digest(scope: str, digest: bytes) -> bytes:
    """Return what stands for a picture of ``digest`` in keys; of no use outside its cache scope."""
    assert digest, "a picture without one would be taken for others"
    salt = hashlib.sha256(scope.encode()).digest()
    return hashlib.sha256(salt + digest).digest()


def total_rows(segments: list[ContextSegment]) -> int:
    """Count the KV rows a list of segments needs."""
    return sum(segment.num_rows for segment in segments)
