"""Episodes as padded batches: every token's embedding source, position, label and view, in the expert order of `model.bagel`.

Each episode becomes segments in the order the server will append them (spec 5.2, 8.3). A segment has a number; a token sees the kept
tokens of all segments below its ``limit``, and of its own segment all (pictures) or the earlier ones (texts). Noisy copies of a drawn
picture are not kept, so nothing later sees them, nor do they see each other; a lower limit makes a copy blind to the last text, or to
everything, for guidance.

    [prompt] [noisy copy 1] ... [noisy copy K] [clean, t = 0] [ViT] [text] ...       segments, one number each
    BOI and EOI of every picture, texts and ViT tokens go through the understanding expert, latents through the other
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.storybook.episodes import Episode, Next, PicturePart, Role, TextPart
from model.storybook.scenes import Scene
from model.tokenizer import Tokenizer

NO_LABEL = -1
PADDING = -1
"""Segment number of padding: it sees only padding."""
DROP_LAST_TEXT = 0.07
DROP_EVERYTHING = 0.07
"""Shares of the noisy copies that do not see the last text, or anything (spec 6.3 and 8.4)."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Tokens of one picture in one format: latent grid and ViT grid as (rows, columns)."""

    latent_grid: tuple[int, int]
    vit_grid: tuple[int, int]

    @property
    def num_latents(self) -> int:
        return self.latent_grid[0] * self.latent_grid[1]

    @property
    def num_patches(self) -> int:
        return self.vit_grid[0] * self.vit_grid[1]


@dataclass(frozen=True, slots=True)
class Views:
    """What tokens may see, one value a token: see the module's docstring. ``order`` is the place inside the segment."""

    segment: Tensor
    limit: Tensor
    order: Tensor
    is_causal: Tensor
    is_kept: Tensor

    def mask(self) -> Tensor:
        """Return bool ``[batch, tokens, tokens]``: whether the query (row) sees the key (column)."""
        query, key = self.segment[:, :, None], self.segment[:, None, :]
        earlier = (key < self.limit[:, :, None]) & self.is_kept[:, None, :] & (key != PADDING)
        within = (query == key) & (~self.is_causal[:, :, None] | (self.order[:, None, :] <= self.order[:, :, None]))
        return earlier | within


@dataclass(frozen=True, slots=True)
class Batch:
    """``num_episodes`` episodes, each padded to ``num_und`` understanding and ``num_gen`` generation tokens.

    Attributes:
        ids: ``[num_episodes * num_und]`` token ids; 0 where a ViT token or padding stands.
        positions: ``[num_episodes * (num_und + num_gen)]`` in packed order: all understanding tokens, then all generation tokens.
        label_rows, labels: understanding rows whose next token is learnt, and that token.
        vit_rows, vit_scenes: understanding rows of the ViT tokens, picture by picture, and the picture's scene.
        latent_scene, latent_index: for each generation row, its scene and its token in the picture.
        copy: for each generation row, the number of the noisy copy it belongs to, or -1 (clean or padding).
        und_rows, gen_rows: the understanding and generation rows that are not padding.
        mask: what each token sees, ``[num_episodes, num_und + num_gen, num_und + num_gen]``.
    """

    num_episodes: int
    num_und: int
    num_gen: int
    scenes: list[Scene]
    num_copies: int
    ids: Tensor
    positions: Tensor
    label_rows: Tensor
    labels: Tensor
    vit_rows: Tensor
    vit_scenes: list[int]
    latent_scene: Tensor
    latent_index: Tensor
    copy: Tensor
    und_rows: Tensor
    gen_rows: Tensor
    mask: Tensor

    @property
    def num_tokens(self) -> int:
        """Tokens of each episode, padding included."""
        return self.num_und + self.num_gen

    def grid_rows(self) -> Tensor:
        """Return the place of each token that is not padding, in packed order, in ``[num_episodes * num_tokens]``."""
        und = self.und_rows + self.und_rows // self.num_und * self.num_gen
        gen = self.gen_rows + (self.gen_rows // max(1, self.num_gen) + 1) * self.num_und
        return torch.cat([und, gen])

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on a device."""
        return replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            label_rows=self.label_rows.to(device),
            labels=self.labels.to(device),
            vit_rows=self.vit_rows.to(device),
            latent_scene=self.latent_scene.to(device),
            latent_index=self.latent_index.to(device),
            copy=self.copy.to(device),
            und_rows=self.und_rows.to(device),
            gen_rows=self.gen_rows.to(device),
            mask=self.mask.to(device),
        )


@dataclass(slots=True)
class _Stream:
    """The tokens of one expert in one episode, column by column."""

    segment: list[int] = field(default_factory=list)
    limit: list[int] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    is_causal: list[bool] = field(default_factory=list)
    is_kept: list[bool] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    source: list[int] = field(default_factory=list)
    label_or_copy: list[int] = field(default_factory=list)
    token: list[int] = field(default_factory=list)

    def add(self, place: _Place, sources: list[int], labels_or_copies: list[int], tokens: list[int]) -> None:
        number = len(sources)
        start = place.position
        self.segment += [place.segment] * number
        self.limit += [place.limit] * number
        self.order += range(number)
        self.is_causal += [place.is_text] * number
        self.is_kept += [place.is_kept] * number
        self.position += range(start, start + number) if place.is_text else [start] * number
        self.source += sources
        self.label_or_copy += labels_or_copies
        self.token += tokens


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a segment stands and what it sees."""

    segment: int
    limit: int
    position: int
    is_text: bool = False
    is_kept: bool = True


class Packer:
    """Lays episodes out for one tokenizer and one picture format."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        geometry: Geometry,
        num_copies: int,
        drop_last_text: float = DROP_LAST_TEXT,
        drop_everything: float = DROP_EVERYTHING,
    ) -> None:
        self.tokenizer = tokenizer
        self.geometry = geometry
        self.num_copies = num_copies
        self.drop_last_text = drop_last_text
        self.drop_everything = drop_everything
        self.next_ids = {
            Next.UNTRAINED: NO_LABEL,
            Next.PICTURE: tokenizer.boi_id,
            Next.TEXT: tokenizer.bos_id,
            Next.END: tokenizer.end_ids[0],
        }

    def pack(self, episodes: list[Episode], rng: Random) -> Batch:
        """Lay out a batch; ``rng`` chooses which noisy copies are blind to what."""
        scenes: dict[Scene, int] = {}
        layouts = [_Layout(self, scenes, rng) for _ in episodes]
        num_copies = 0
        for layout, episode in zip(layouts, episodes, strict=True):
            num_copies = layout.lay_out(episode, num_copies)
        num_und = max(len(layout.und.segment) for layout in layouts)
        num_gen = max(len(layout.gen.segment) for layout in layouts)
        und, gen = [layout.und for layout in layouts], [layout.gen for layout in layouts]
        labels = _padded([stream.label_or_copy for stream in und], num_und, NO_LABEL).flatten()
        label_rows = (labels != NO_LABEL).nonzero()[:, 0]
        tokens = _padded([stream.token for stream in und], num_und, PADDING).flatten()
        views = _views(und, gen, num_und, num_gen)
        is_real = views.segment != PADDING
        positions = [_padded([stream.position for stream in streams], size, 0) for streams, size in ((und, num_und), (gen, num_gen))]
        return Batch(
            num_episodes=len(episodes),
            num_und=num_und,
            num_gen=num_gen,
            scenes=list(scenes),
            num_copies=num_copies,
            ids=_padded([stream.source for stream in und], num_und, 0).flatten(),
            positions=torch.cat([part.flatten() for part in positions]),
            label_rows=label_rows,
            labels=labels[label_rows],
            vit_rows=(tokens != PADDING).nonzero()[:, 0],
            vit_scenes=[scene for layout in layouts for scene in layout.read_scenes],
            latent_scene=_padded([stream.source for stream in gen], num_gen, 0).flatten(),
            latent_index=_padded([stream.token for stream in gen], num_gen, 0).flatten(),
            copy=_padded([stream.label_or_copy for stream in gen], num_gen, PADDING).flatten(),
            und_rows=is_real[:, :num_und].flatten().nonzero()[:, 0],
            gen_rows=is_real[:, num_und:].flatten().nonzero()[:, 0],
            mask=views.mask(),
        )


class _Layout:
    """The two streams of one episode while it is laid out."""

    def __init__(self, packer: Packer, scenes: dict[Scene, int], rng: Random) -> None:
        self.und, self.gen = _Stream(), _Stream()
        self.read_scenes: list[int] = []
        self._packer = packer
        self._scenes = scenes
        self._rng = rng
        self._segment = 0
        self._position = 0
        self._before_last_text = (0, 0)

    def lay_out(self, episode: Episode, num_copies: int) -> int:
        """Lay out every part; noisy copies are numbered from ``num_copies`` on. Return the number after the last."""
        for part in episode:
            if isinstance(part, TextPart):
                self._add_text(part)
                continue
            if part.role is Role.DRAWN:
                num_copies = self._add_noisy(part.scene, num_copies)
            if part.role is not Role.READ and (part.role is Role.GIVEN or part.then is not Next.UNTRAINED):
                self._add_latents(part.scene, self._place(), PADDING)
                self._advance(1)
            if part.role is not Role.DRAWN or part.then is not Next.UNTRAINED:
                self._add_vit(part)
        return num_copies

    def _add_text(self, part: TextPart) -> None:
        tokenizer = self._packer.tokenizer
        inner = tokenizer.encode(part.text)
        written = [*inner, tokenizer.eos_id] if part.is_written else [NO_LABEL] * (len(inner) + 1)
        ids = [tokenizer.bos_id, *inner, tokenizer.eos_id]
        self._before_last_text = (self._segment, self._position)
        self.und.add(self._place(is_text=True), ids, [*written, self._packer.next_ids[part.then]], [PADDING] * len(ids))
        self._advance(len(ids))

    def _add_noisy(self, scene: Scene, num_copies: int) -> int:
        """Add the noisy copies: each its own segment, kept by none, now and then blind to the last text or to everything."""
        limit, position = self._segment, self._position
        for _ in range(self._packer.num_copies):
            draw = self._rng.random() - self._packer.drop_last_text
            blind = self._before_last_text if draw < 0 else (0, 0) if draw < self._packer.drop_everything else None
            copy_limit, copy_position = blind or (limit, position)
            self._add_latents(scene, _Place(self._segment, copy_limit, copy_position, is_kept=False), num_copies)
            self._segment += 1
            num_copies += 1
        return num_copies

    def _add_latents(self, scene: Scene, place: _Place, copy: int) -> None:
        tokenizer, number = self._packer.tokenizer, self._packer.geometry.num_latents
        self.und.add(place, [tokenizer.boi_id, tokenizer.eoi_id], [NO_LABEL] * 2, [PADDING] * 2)
        self.gen.add(place, [self._index(scene)] * number, [copy] * number, list(range(number)))

    def _add_vit(self, part: PicturePart) -> None:
        tokenizer, number = self._packer.tokenizer, self._packer.geometry.num_patches
        ids = [tokenizer.boi_id, *[0] * number, tokenizer.eoi_id]
        labels = [*[NO_LABEL] * (number + 1), self._packer.next_ids[part.then]]
        self.und.add(self._place(), ids, labels, [PADDING, *range(number), PADDING])
        self.read_scenes.append(self._index(part.scene))
        self._advance(1)

    def _place(self, is_text: bool = False) -> _Place:
        return _Place(self._segment, self._segment, self._position, is_text=is_text)

    def _advance(self, num_positions: int) -> None:
        self._segment += 1
        self._position += num_positions

    def _index(self, scene: Scene) -> int:
        return self._scenes.setdefault(scene, len(self._scenes))


def _views(und: list[_Stream], gen: list[_Stream], num_und: int, num_gen: int) -> Views:
    """Join both experts' tokens of each episode, understanding first."""

    def joined(und_column: list[list[int]], gen_column: list[list[int]], fill: int) -> Tensor:
        return torch.cat([_padded(und_column, num_und, fill), _padded(gen_column, num_gen, fill)], dim=1)

    return Views(
        segment=joined([s.segment for s in und], [s.segment for s in gen], PADDING),
        limit=joined([s.limit for s in und], [s.limit for s in gen], 0),
        order=joined([s.order for s in und], [s.order for s in gen], 0),
        is_causal=joined([[*map(int, s.is_causal)] for s in und], [[*map(int, s.is_causal)] for s in gen], 0).bool(),
        is_kept=joined([[*map(int, s.is_kept)] for s in und], [[*map(int, s.is_kept)] for s in gen], 0).bool(),
    )


def _padded(columns: list[list[int]], size: int, fill: int) -> Tensor:
    table: npt.NDArray[np.int64] = np.full((len(columns), size), fill, dtype=np.int64)
    for row, column in zip(table, columns, strict=True):
        row[: len(column)] = column
    return torch.from_numpy(table)
